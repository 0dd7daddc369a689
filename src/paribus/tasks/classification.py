"""The task of naming what an image shows."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import CutMix, MixUp

from paribus.losses import binary_cross_entropy, cross_entropy, distillation
from paribus.tasks.base import Batch, Task


class Classification(Task):
    """One class an image (``target=label``), or any number of them (``labels``). Answers: logits ``[B, classes]``.

    label_smoothing: see losses.cross_entropy; of ``label`` only, as is what follows.
    mixup, cutmix: alpha of the Beta distribution that the share of a second image in each is drawn from, over
        its whole area (Zhang et al. 2018) or in a rectangle (Yun et al. 2019); 0 is without; of both, each batch
        gets one.
    auxiliary_weight: of the losses of the model's auxiliary classifiers (Szegedy et al. 2015: 0.3).
    teacher: the run folder whose model is distilled, and teacher_model that model. The loss is
        (1 - distillation) * cross-entropy + distillation * T^2 * KL(teacher / T || student / T) with the
        temperature T (Hinton et al. 2015, section 2).
    """

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        auxiliary_weight: float = 0.3,
        teacher: str | None = None,
        teacher_model: nn.Module | None = None,
        temperature: float = 4.0,
        distillation: float = 0.9,
        **task: Any,
    ):
        super().__init__(**task)
        self.label_smoothing, self.auxiliary_weight = label_smoothing, auxiliary_weight
        self.mixtures = [
            make(alpha=alpha, num_classes=None)
            for make, alpha in ((MixUp, mixup), (CutMix, cutmix))
            if alpha > 0
        ]
        if self.target == "labels" and (self.mixtures or teacher or label_smoothing):
            raise ValueError(
                "task.mixup, cutmix, label_smoothing and teacher are for one class an image: set them to 0 and "
                "null, or task.target=label"
            )
        if min(mixup, cutmix) < 0 or temperature <= 0 or not 0 <= distillation <= 1:
            raise ValueError(
                f"task.mixup={mixup} and cutmix={cutmix}: 0 or more; temperature={temperature}: above 0; "
                f"distillation={distillation}: from 0 to 1"
            )
        # In a list: the teacher's weights are none of this task's, and no checkpoint holds them.
        self.teacher = [teacher_model.eval().requires_grad_(False)] if teacher_model is not None else []
        self.temperature, self.distillation = temperature, distillation

    def on_fit_start(self) -> None:
        for teacher in self.teacher:
            teacher.to(self.device)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        images, targets, _ = batch
        if self.mixtures:
            targets = F.one_hot(targets, len(self.metrics["val"].classes)).float()
            # torch's generator, which on_train_batch_start seeds; on the CPU: nothing waits for the device.
            mixture = self.mixtures[int(torch.randint(len(self.mixtures), ()))]
            images, targets = mixture(images, targets)
        answer, auxiliary = self.trained(images, targets, self.auxiliary_weight)
        losses = self.compare(answer, targets) | auxiliary
        for teacher in self.teacher:
            with torch.no_grad():
                wanted = teacher(images)
            losses["loss"] = (1 - self.distillation) * losses["loss"]
            losses["distillation"] = self.distillation * distillation(answer, wanted, self.temperature)
        if len(losses) > 1:  # their sum is what is called the loss
            losses["cross_entropy"] = losses.pop("loss")
        return losses

    def compare(self, answer: Tensor, targets: Tensor) -> dict[str, Tensor]:
        if self.target == "labels":
            return {"loss": binary_cross_entropy(answer, targets)}
        return {"loss": cross_entropy(answer, targets, smoothing=self.label_smoothing)}
