"""A training step of U-Net and DeepLabv3+ on ResNet-18, beside segmentation_models.pytorch's of the same shape.

    OMP_NUM_THREADS=1 python scripts/benchmarks/segmentation_step.py

The weights of theirs are put into ours and the logits held to be equal (as the tests do, with what differs on
purpose taken out of theirs); then both do the same steps in turn: forward, cross-entropy with ignored pixels,
backward, fused AdamW. Prints the median of the ratios of neighbouring steps, ours / theirs.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable

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
FLOOR = 1.02  # ours may take this much longer: a fiftieth is what two runs of one program differ by
ROUNDS = 15


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

    def run() -> float:
        start = time.perf_counter()
        loss(model(images), masks).backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return run


def main() -> None:
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    images, masks = torch.randn(8, 3, 192, 256), torch.randint(0, CLASSES, (8, 192, 256))
    masks[:, :20] = IGNORE
    print(f"torch {torch.__version__}, segmentation_models_pytorch {smp.__version__}, {ROUNDS} rounds")
    for name, make in (("U-Net", unets), ("DeepLabv3+", deeplabs)):
        ours, theirs = make()
        ours.eval(), theirs.eval()
        with torch.no_grad():
            assert torch.allclose(ours(images[:1]), theirs(images[:1]), atol=1e-5), f"{name}: another network"
        ours.train(), theirs.train()
        ways = (
            step(ours, cross_entropy, images, masks),
            step(theirs, lambda x, y: F.cross_entropy(x, y, ignore_index=IGNORE), images, masks),
        )
        ways[0](), ways[1]()  # allocates
        rows = []
        for i in range(ROUNDS):
            first, second = (0, 1) if i % 2 else (1, 0)
            taken = {first: ways[first](), second: ways[second]()}
            rows.append((taken[0], taken[1]))
        ratio = statistics.median(a / b for a, b in rows)
        seconds = " and ".join(f"{statistics.median(column):.2f} s" for column in zip(*rows, strict=True))
        verdict = "PASS" if ratio <= FLOOR else "FAIL"
        print(f"{verdict} {name} step {ratio:.3f} {FLOOR}  (ours and theirs {seconds})")


if __name__ == "__main__":
    main()
