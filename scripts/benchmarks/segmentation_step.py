"""A training step of U-Net and DeepLabv3+ on ResNet-18, beside segmentation_models.pytorch's of the same shape.

    OMP_NUM_THREADS=1 python scripts/benchmarks/segmentation_step.py [--quick]

The weights of theirs are put into ours and the logits held to be equal (as the tests do, with what differs on
purpose taken out of theirs); then both do the same steps in turn: forward, cross-entropy with ignored pixels,
backward, fused AdamW. Each ratio is that of neighbouring steps, ours / theirs, by the processor's time of one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable

import measure
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from paribus.losses import cross_entropy
from paribus.models.backbones.timm import Timm
from paribus.models.segmentation.deeplabv3plus import DeepLabV3Plus
from paribus.models.segmentation.unet import UNet
from paribus.models.weights import in_order

CLASSES, IGNORE = 11, 255
BOUND = "<=1.02"  # ours may take this much longer: a fiftieth is what two runs of one program differ by


def unets() -> tuple[nn.Module, nn.Module]:
    theirs = smp.Unet("resnet18", encoder_weights=None, classes=CLASSES)
    ours = UNet(backbone=Timm(name="resnet18"), num_classes=CLASSES, decoder_channels=[256, 128, 64, 32, 16])
    head = theirs.segmentation_head[0]  # a 3x3 convolution; ours is 1x1, as the paper's
    theirs.segmentation_head[0] = nn.Conv2d(head.in_channels, CLASSES, 1)
    ours.load_state_dict(in_order(ours, theirs.state_dict()), strict=False)
    return ours, theirs


def deeplabs() -> tuple[nn.Module, nn.Module]:
    theirs = smp.DeepLabV3Plus(
        "resnet18", encoder_weights=None, classes=CLASSES, decoder_atrous_rates=(6, 12, 18)
    )
    theirs.decoder.aspp = theirs.decoder.aspp[0]
    for place, module in ((theirs.decoder, "up"), (theirs.segmentation_head, "1")):
        setattr(place, module, nn.Upsample(scale_factor=4, mode="bilinear", align_corners=False))
    strode = theirs.encoder.layer4[0].conv1
    strode.dilation = strode.padding = (1, 1)
    for module in theirs.modules():  # so that both draw nothing
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ours = DeepLabV3Plus(
        backbone=Timm(name="resnet18", output_stride=16),
        num_classes=CLASSES,
        decoder_channels=[256],
        separable=True,
    )
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    return ours, theirs


def step(model: nn.Module, loss: Callable[..., Tensor], images: Tensor, masks: Tensor) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        loss(model(images), masks).backward()
        optimizer.step()
        optimizer.zero_grad()

    run()  # allocates
    return measure.timed(run)


def main() -> None:
    quick = measure.quick(__doc__)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    size = (2, 96, 128) if quick else (8, 192, 256)
    images, masks = torch.randn(size[0], 3, *size[1:]), torch.randint(0, CLASSES, size)
    masks[:, :20] = IGNORE
    for name, make in (("U-Net", unets), ("DeepLabv3+", deeplabs)):
        ours, theirs = make()
        ours.eval(), theirs.eval()
        with torch.no_grad():
            assert torch.allclose(ours(images[:1]), theirs(images[:1]), atol=1e-5), f"{name}: another network"
        ours.train(), theirs.train()
        found = measure.in_turn(
            {
                f"{name}, Paribus": step(ours, cross_entropy, images, masks),
                f"{name}, segmentation_models.pytorch": step(
                    theirs, lambda x, y: F.cross_entropy(x, y, ignore_index=IGNORE), images, masks
                ),
            },
            1 if quick else 15,
        )
        measure.table(found, "s a step")
        own, other = found.values()
        measure.claim(
            f"step of {name}", "segmentation_models.pytorch", measure.ratio(own, other), BOUND, not quick
        )


if __name__ == "__main__":
    main()
    measure.end()
