"""FCOS is torchvision's, on any backbone."""

import pytest
import torch
from torch import nn
from torchvision.models import detection

from boxes import scenes
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.detection.fcos import FCOS
from paribus.profile.complexity import count
from torchvisions import NORMS, PLAIN, ours_and_theirs, same_losses, take


def test_equal_to_torchvisions_builder():
    torch.manual_seed(0)
    theirs = detection.fcos_resnet50_fpn(**PLAIN, score_thresh=0.0)
    ours = FCOS(backbone=ResNet(depth=50), num_classes=91, score_thresh=0.0)
    take((ours.backbone, theirs.backbone.body), (ours.pyramid, theirs.backbone.fpn), (ours.head, theirs.head))
    images, targets = scenes(2)
    same_losses(
        ours(images, targets),
        theirs(list(images), targets),
        {"classification": "classification", "box": "bbox_regression", "centerness": "bbox_ctrness"},
    )
    ours_and_theirs(ours, theirs, images)


def test_published_numbers():
    with torch.device("meta"):
        model = FCOS(backbone=ResNet(depth=50), num_classes=91)
    parameters, macs = count(model, (800, 800))
    assert parameters == 32_269_600 + NORMS
    assert macs / 1e9 == pytest.approx(128.21, abs=0.005)


def test_one_map_has_objects_of_every_size():
    torch.manual_seed(0)
    model = FCOS(backbone=ConvNet(channels=[4] * 4), num_classes=2, pyramid_channels=8, neck="none").eval()
    images = torch.randn(1, 3, 128, 128)
    seen = model.see(images)
    assert [tuple(m.shape[-2:]) for m in seen.maps] == [(8, 8)]
    for box in ([40.0, 40, 60, 60], [0.0, 0, 128, 128]):
        target = {"boxes": torch.tensor([box]), "labels": torch.tensor([1])}
        assert model.losses(seen, [target])["box"] > 0.1  # 0 where no cell learns it


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("group", nn.GroupNorm), ("batch", nn.BatchNorm2d), ("instance", nn.InstanceNorm2d), (None, None)],
)
def test_the_norm_of_the_heads_is_a_choice(norm, kind):
    model = FCOS(backbone=ConvNet(channels=[4, 4, 4]), num_classes=2, pyramid_channels=8, norm=norm)
    norms = nn.GroupNorm | nn.BatchNorm2d | nn.InstanceNorm2d
    found = [m for m in model.head.modules() if isinstance(m, norms)]
    assert len(found) == (8 if kind else 0)
    assert all(isinstance(m, kind) for m in found)


def test_a_radius_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"model\.center_radius=0\.0: more than 0"):
        FCOS(backbone=ConvNet(channels=[4, 4, 4]), num_classes=2, center_radius=0.0)
