"""What a task does in a step: losses, parameter groups, and no waiting for the device between log rows."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from composing import composed
from paribus.checks import check
from paribus.config import build
from paribus.data.batches import collate
from test_train import TASKS

# Operations whose result the host must wait for on a GPU.
WAITS = {"_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "bincount", "masked_select"}


class Waits(TorchDispatchMode):
    """Counts the operations at which the host would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        boolean = name in ("index", "index_put_", "index_put") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in (args[1] or ()) if i is not None
        )
        if name in WAITS or boolean:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def parts(kind: str, *overrides: str):
    built = build(check(composed(*TASKS[kind], *overrides)))
    built.data.open("train")
    batch = collate([built.data.splits["train"][i] for i in range(4)])
    return built.task, built.data.on_after_batch_transfer(batch, 0)


@pytest.mark.parametrize("kind", ["label", "labels", "mask"])
def test_a_training_step_waits_for_nothing(kind):
    task, batch = parts(kind)
    task.train()
    with Waits() as waits:
        task.training_step(batch, 0).backward()
    assert not waits.names


@pytest.mark.parametrize("kind", ["label", "labels", "mask"])
def test_judging_a_batch_waits_for_nothing(kind):
    task, batch = parts(kind)
    task.eval()
    with torch.no_grad():
        task._judge("val", batch)
        with Waits() as waits:
            task._judge("val", batch)
    assert not waits.names


@pytest.mark.parametrize("kind", TASKS)
def test_the_loss_is_the_sum_of_its_parts(kind):
    task, batch = parts(kind)
    task.train()
    loss = task.training_step(batch, 0)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    named = [value for name, value in task.sums.items() if name != "loss"]
    torch.testing.assert_close(task.sums["loss"], sum(named) if named else loss.detach())


def test_label_smoothing_is_the_literatures():
    task, (_, targets, _) = parts("label", "task.label_smoothing=0.1")
    logits = torch.randn(4, 10)
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(task.compare(logits, targets)["loss"], expected)


def test_the_backbones_rate_and_the_decay_of_norms():
    task, _ = parts("label", "task.backbone_lr_factor=0.1", "optimizer.lr=0.5", "optimizer.weight_decay=0.2")

    class Trainer:
        estimated_stepping_batches = 10

    task._trainer = Trainer()
    task._fabric = None
    (groups,) = [task.configure_optimizers()["optimizer"].param_groups]
    by_name = {group["name"]: group for group in groups}
    assert by_name["backbone"]["initial_lr"] == pytest.approx(0.05)
    assert by_name["head"]["initial_lr"] == 0.5
    assert by_name["backbone"]["weight_decay"] == 0.2
    assert by_name["backbone_no_decay"]["weight_decay"] == 0


@pytest.mark.parametrize("kind", ["label", "labels", "mask"])
def test_the_judged_loss_is_that_of_the_set(kind):
    """Batches of unequal size count by their samples."""
    task, (images, targets, ids) = parts(kind)
    task.eval()
    with torch.no_grad():
        whole = task.compare(task.predict(images), targets)["loss"]
        for part in (slice(0, 3), slice(3, 4)):
            task._judge("val", (images[part], targets[part], ids[part]))
        torch.testing.assert_close(task.mean_losses["loss"].compute(), whole.double(), rtol=1e-5, atol=1e-6)
