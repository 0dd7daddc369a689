"""The network, the module and the data of the template's run; importable, as joblib's workers need them."""

import torch
from lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, random_split
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification import Accuracy
from torchvision.datasets import MNIST
from torchvision.transforms import transforms


class Network(nn.Sequential):
    """28 x 28 pixels as one vector, through two hidden layers."""

    def __init__(self, width: int = 64):
        layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)]
        super().__init__(nn.Flatten(), *layers)


class Digits(LightningModule):
    def __init__(self, net: nn.Module, optimizer, scheduler):
        super().__init__()
        self.net, self.make_optimizer, self.make_scheduler = net, optimizer, scheduler
        self.criterion = nn.CrossEntropyLoss()
        self.accuracy = nn.ModuleDict(
            {f"{split}_": Accuracy("multiclass", num_classes=10) for split in ("train", "val", "test")}
        )
        self.loss = nn.ModuleDict({f"{split}_": MeanMetric() for split in ("train", "val", "test")})
        self.best = MaxMetric()

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def on_train_start(self) -> None:
        self.accuracy["val_"].reset(), self.loss["val_"].reset(), self.best.reset()

    def step(self, split: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, targets = batch
        logits = self(images)
        loss = self.criterion(logits, targets)
        mean, accuracy = self.loss[f"{split}_"], self.accuracy[f"{split}_"]
        mean(loss), accuracy(logits.argmax(1), targets)
        self.log(f"{split}/loss", mean, on_step=False, on_epoch=True, prog_bar=True)
        self.log(f"{split}/acc", accuracy, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def training_step(self, batch, batch_idx: int) -> Tensor:
        return self.step("train", batch)

    def validation_step(self, batch, batch_idx: int) -> None:
        self.step("val", batch)

    def on_validation_epoch_end(self) -> None:
        self.best(self.accuracy["val_"].compute())
        self.log("val/acc_best", self.best.compute(), sync_dist=True, prog_bar=True)

    def test_step(self, batch, batch_idx: int) -> None:
        self.step("test", batch)

    def configure_optimizers(self):
        optimizer = self.make_optimizer(params=self.parameters())
        scheduler = self.make_scheduler(optimizer=optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val/loss", "interval": "epoch"},
        }


class Data(LightningDataModule):
    def __init__(self, root: str, lengths: list[int], batch_size: int, num_workers: int, pin_memory: bool):
        super().__init__()
        self.root, self.lengths, self.batch_size = root, lengths, batch_size
        self.settings = {"num_workers": num_workers, "pin_memory": pin_memory}
        self.transforms = transforms.Compose(
            [transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
        )
        self.sets = None

    def prepare_data(self) -> None:
        MNIST(self.root, train=True), MNIST(self.root, train=False)

    def setup(self, stage=None) -> None:
        if self.sets is None:
            whole = ConcatDataset(
                [MNIST(self.root, train=t, transform=self.transforms) for t in (True, False)]
            )
            self.sets = random_split(whole, self.lengths, torch.Generator().manual_seed(42))

    def _loader(self, part: int, shuffle: bool = False) -> DataLoader:
        return DataLoader(self.sets[part], batch_size=self.batch_size, shuffle=shuffle, **self.settings)

    def train_dataloader(self) -> DataLoader:
        return self._loader(0, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return self._loader(1)

    def test_dataloader(self) -> DataLoader:
        return self._loader(2)
