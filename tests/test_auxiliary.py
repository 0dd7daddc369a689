"""The auxiliary head: torchvision's, on the last map but one, trained with any norm."""

import pytest
import torch
from torchvision.models.segmentation.fcn import FCNHead

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.segmentation.auxiliary import Auxiliary


def test_with_torchvisions_weights_it_gives_torchvisions_logits():
    theirs = FCNHead(256, 7).eval()
    ours = Auxiliary(backbone=ResNet(depth=18), num_classes=7).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    maps = [
        torch.randn(1, c, 128 // s, 96 // s) for c, s in ((64, 2), (64, 4), (128, 8), (256, 16), (512, 32))
    ]
    expected = torch.nn.functional.interpolate(theirs(maps[3]), size=(128, 96), mode="bilinear")
    assert torch.allclose(ours(maps, (128, 96)), expected, atol=1e-6)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_it_sees_the_last_map_but_one(stride):
    backbone = Timm(name="test_resnet", output_stride=stride).eval()
    head = Auxiliary(backbone=backbone, num_classes=3).eval()
    maps = [m.detach().requires_grad_() for m in backbone(torch.randn(1, 3, 64, 64))]
    head(maps, (64, 64)).sum().backward()
    assert [m.grad is not None for m in maps] == [False] * (len(maps) - 2) + [True, False]


@pytest.mark.parametrize("norm", [None, "group", "none", "local_response"])
def test_every_parameter_has_a_gradient_from_one_image_of_odd_size(norm):
    backbone = ConvNet(channels=[2, 3, 4])  # fewer than four channels: the head keeps one
    head = Auxiliary(backbone=backbone, num_classes=3, norm=norm, activation="prelu")
    logits = head(backbone(torch.randn(1, 3, 33, 29)), (33, 29))
    assert logits.shape == (1, 3, 33, 29)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_a_single_map_is_refused():
    with pytest.raises(ValueError, match=r"model\.auxiliary: ConvNet has a single map.*auxiliary=false"):
        Auxiliary(backbone=ConvNet(channels=[4]), num_classes=2)
