"""The task of naming every pixel."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from paribus.data.frequencies import ClassWeights
from paribus.losses import cross_entropy, dice, focal, lovasz
from paribus.tasks.base import Batch, Task
from paribus.windows import refuse, slide

PARTS = ("cross_entropy", "focal", "dice", "lovasz")


class Segmentation(Task):
    """A class for every pixel. Answers: logits ``[B, classes, H, W]``, at the images' size.

    loss: its parts and their weights, see losses.py; 0 leaves a part out. What is trained is the sum, in the
        log ``loss``, and each part by its name where there are several. Of a set that is judged, ``loss`` is
        this sum too, without what auxiliary heads add.
    focal_gamma: of focal.
    hardest: share of the pixels, those with the largest losses, that cross_entropy learns from; None: all.
    label_smoothing: of cross_entropy.
    class_weights: of cross_entropy and focal, from the masks of the training set, see data/frequencies.py.
    auxiliary_weight: of the losses of a model that while it trains answers with (logits, those of auxiliary
        heads, ...) (Zhao et al. 2017, Pyramid scene parsing network, section 3.3: 0.4).
    boundary_f1: contours are judged too, see metrics/segmentation.py.
    window, overlap: judged and applied, but not trained, in windows [height, width] that share at least this
        part of their side with the next (see windows.py); None: on whole images.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        metrics: Callable[..., Metric],
        loss: dict[Literal["cross_entropy", "focal", "dice", "lovasz"], float] | None = None,
        focal_gamma: float = 2.0,
        hardest: float | None = None,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = "none",
        auxiliary_weight: float = 0.4,
        boundary_f1: bool = False,
        window: list[int] | None = None,
        overlap: float = 0.5,
        **task: Any,
    ):
        super().__init__(metrics=partial(metrics, boundary_f1=boundary_f1), **task)
        given: dict[Any, float] = {"cross_entropy": 1.0} if loss is None else dict(loss)
        self.loss: dict[str, float] = {name: weight for name, weight in given.items() if weight}
        self.focal_gamma, self.hardest, self.label_smoothing = focal_gamma, hardest, label_smoothing
        self.weighting, self.auxiliary_weight = class_weights, auxiliary_weight
        self._refuse(given)
        # Filled when training begins; in the checkpoint, so that a resumed or an evaluated run has the same.
        classes = len(self.metrics["val"].classes)
        self.register_buffer("class_weights", None if class_weights == "none" else torch.ones(classes))
        refuse(window, overlap)
        self.window, self.overlap = window, overlap

    def _refuse(self, given: dict[str, float]) -> None:
        """ValueError for losses that cannot be, or keys that none of them reads."""

        def need(fine: bool, message: str) -> None:
            if not fine:
                raise ValueError(f"task.{message}")

        chosen = {*self.loss}
        need(
            bool(chosen) and chosen <= {*PARTS} and min(self.loss.values()) > 0,
            f"loss={given}: weights of {', '.join(PARTS)}, none below 0 and one above it",
        )
        need(self.focal_gamma >= 0, f"focal_gamma={self.focal_gamma}: 0 or more")
        need(self.auxiliary_weight >= 0, f"auxiliary_weight={self.auxiliary_weight}: 0 or more")
        need(
            self.hardest is None or 0 < self.hardest <= 1,
            f"hardest={self.hardest}: a share of the pixels, above 0 and at most 1, or null",
        )
        need(
            "cross_entropy" in chosen or (self.hardest is None and not self.label_smoothing),
            "hardest and label_smoothing are of cross-entropy: task.loss.cross_entropy=1, or null and 0",
        )
        need(
            bool(chosen & {"cross_entropy", "focal"}) or self.weighting == "none",
            f"class_weights={self.weighting} are of cross-entropy and focal: task.loss.cross_entropy=1, or "
            "none",
        )

    def prepare_data(self) -> None:
        """In one process of each machine, while the others wait: they find what it has counted."""
        if self.trainer.state.fn == "fit" and self.class_weights is not None:
            self.trainer.datamodule.frequencies()  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Comes before a checkpoint is restored, whose weights so have the last word."""
        if stage == "fit" and self.class_weights is not None:
            known = self.trainer.datamodule.frequencies()  # type: ignore[attr-defined]
            self.class_weights.copy_(torch.tensor(known.weights(self.weighting)))

    def predict(self, images: Tensor) -> Tensor:
        if self.window is None or self.training:
            return self.model(images)
        return slide(self.model, images, window=self.window, overlap=self.overlap)

    def answers(self, batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
        """Masks at their own size (``data.judge_at=native``) are judged one by one, as their sizes differ."""
        images, targets, _ = batch
        if not isinstance(targets, list):
            yield from super().answers(batch)
            return
        transform = self.trainer.datamodule.eval_transform  # type: ignore[attr-defined]
        fitted = self.predict(images) if transform.size else None
        for i, mask in enumerate(targets):
            height, width = mask.shape
            if fitted is not None:
                answer = transform.restore_logits(fitted[i : i + 1], (height, width))
            else:  # as it was before its batch padded it
                answer = self.predict(images[i : i + 1, :, :height, :width])
            yield answer, mask[None]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, targets, _ = batch
        answer, auxiliary = self.trained(images, targets, self.auxiliary_weight)
        return self._parts(answer, targets) | auxiliary

    def compare(self, answer: Tensor, targets: Tensor) -> dict[str, Tensor]:
        parts = self._parts(answer, targets)
        whole = {"loss": torch.stack(list(parts.values())).sum()}
        return whole | parts if len(parts) > 1 else whole

    def _parts(self, answer: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Each part of the loss, weighted."""
        weights = self.class_weights
        parts: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "cross_entropy": partial(
                cross_entropy,
                smoothing=self.label_smoothing,
                hardest=self.hardest,
                class_weights=weights,
            ),
            "focal": partial(focal, gamma=self.focal_gamma, class_weights=weights),
            "dice": dice,
            "lovasz": lovasz,
        }
        return {name: weight * parts[name](answer, targets) for name, weight in self.loss.items()}

    def decide(self, answer: Tensor) -> Tensor:
        """Classes int64 ``[B, H, W]``."""
        return answer.argmax(1)
