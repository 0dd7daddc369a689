"""A training step of ResNet-18 on the processor: Paribus with what suits it, Lightning's defaults.

    OMP_NUM_THREADS=1 python scripts/benchmarks/cpu_training.py [--quick]

Paribus trains in bf16-mixed, channels_last and with the fused optimizer; a later `trainer.autotune` will choose these
by itself, by a probe of a few steps. Lightning's defaults are float32, the tensors as they come and AdamW as torch
makes it. The same network from the same weights on the same batches of 32 images of 64 pixels, the same rate. Equal
first: the losses of the first steps to 5 %, as bfloat16 has 8 bits. Seconds are the processor's, of as many threads
as OMP_NUM_THREADS says.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
import copy
import io
import tempfile
from typing import Any

import measure
import torch
from lightning import LightningModule, Trainer
from ours import Batch, Fed, composed, fit, parts_of
from torch import Tensor, nn
from torch.nn import functional as F

CONFIG = [
    *(
        "backbone=resnet18",
        "data.size=[64,64]",
        "data.batch_size=32",
        "scheduler=constant",
        "optimizer.lr=1e-3",
    ),
    *("data.reader.lengths={train: 64, val: 32, test: 32}", "task.decay_norm_and_bias=true"),
    *("trainer.max_epochs=1", "trainer.log_every=1"),
]
TUNED = ["trainer.precision=bf16-mixed", "trainer.channels_last=true"]
WARM = 2


class Default(LightningModule):
    """The training step of Lightning's introduction."""

    def __init__(self, model: nn.Module, normalize: Any, settings: dict[str, Any]):
        super().__init__()
        self.model, self.normalize, self.settings = model, normalize, settings
        self.losses: list[Tensor] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets, _ = batch
        loss = F.cross_entropy(self.model(self.normalize(images)), targets)
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), **{**self.settings, "fused": None})


def main() -> None:
    quick = measure.quick(__doc__)
    steps = 2 if quick else 8
    plain, tuned = composed(*CONFIG), composed(*CONFIG, *TUNED)
    first = parts_of(plain)
    model = first.task.model
    generator = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randint(256, (32, 3, 64, 64), dtype=torch.uint8, generator=generator),
            torch.randint(10, (32,), generator=generator),
            ["" for _ in range(32)],
        )
        for _ in range(WARM + steps)
    ]
    losses: dict[str, list[float]] = {}

    def ours() -> float:
        parts = parts_of(tuned)
        parts.task.model.load_state_dict(model.state_dict())
        rows, fed = [], Fed(batches, WARM)
        fit(tuned, parts, fed, rows.append)
        losses["ours"] = [row["train/loss"] for row in rows if "train/loss" in row]
        return fed.seconds

    def theirs() -> float:
        module = Default(copy.deepcopy(model), first.data.normalize, first.task.make_optimizer.keywords)
        fed = Fed(batches, WARM)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            trainer = Trainer(
                max_epochs=1, accelerator="cpu", default_root_dir=folder, enable_progress_bar=False
            )
            trainer.fit(module, fed)
        losses["theirs"] = [float(loss) for loss in module.losses]
        return fed.seconds

    found = measure.in_turn(
        {"Paribus, bf16, channels_last, fused": ours, "Lightning's defaults": theirs}, 1 if quick else 5
    )
    for number, (a, b) in enumerate(zip(losses["ours"][:3], losses["theirs"][:3], strict=True)):
        assert abs(a - b) < 0.05 * b, f"another loss at step {number}: {a} and {b}"
    measure.table(found, "ms a step", 1e3)
    own, other = found.values()
    measure.claim(
        "CPU training, ResNet-18, 64 px",
        "Lightning's defaults",
        measure.ratio(other, own),
        ">=1.3",
        not quick,
    )


if __name__ == "__main__":
    main()
    measure.end()
