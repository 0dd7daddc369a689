"""Parameters and multiply-adds equal the published ones, to the last digit."""

import pytest
import torch

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.timm import Timm
from paribus.models.classifier import Classifier
from paribus.models.detection.faster_rcnn import FasterRCNN
from paribus.models.detection.retinanet import RetinaNet
from paribus.models.segmentation.unet import UNet
from paribus.profile import count


def classifier(name):
    with torch.device("meta"):
        return Classifier(backbone=Timm(name=name), num_classes=1000)


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    [
        ("resnet18", 11_689_512, 1.814),
        ("resnet50", 25_557_032, 4.089),
        ("vgg16_bn", 138_365_992, 15.470),
        ("densenet121", 7_978_856, 2.834),
        ("resnext50_32x4d", 25_028_904, 4.230),
        ("mobilenetv1_100", 4_231_976, 0.5687),
        ("mobilenetv2_100", 3_504_872, 0.3008),
        ("efficientnet_b0", 5_288_548, 0.3858),
        ("convnext_tiny", 28_589_128, 4.456),
        ("vit_base_patch16_224", 86_567_656, 17.564),
        ("swin_tiny_patch4_window7_224", 28_288_354, 4.491),
    ],
)
def test_published_numbers(name, parameters, gmacs):
    counted, macs = count(classifier(name), (224, 224))
    assert counted == parameters
    assert macs / 1e9 == pytest.approx(gmacs, rel=5e-4)


# torchvision publishes the detectors without their frozen batch norms' 53,120 weights.
def test_retinanet_equals_torchvisions():
    with torch.device("meta"):
        model = RetinaNet(backbone=Timm(name="resnet50"), num_classes=91, norm=None)
    parameters, macs = count(model, (800, 800))
    assert parameters == 34_014_999 + 53_120
    assert macs / 1e9 == pytest.approx(151.54, abs=0.005)


def test_faster_rcnn_equals_torchvisions():
    with torch.device("meta"):
        model = FasterRCNN(backbone=Timm(name="resnet50"), num_classes=90, proposals=1000)
    parameters, macs = count(model, (800, 800))
    assert parameters == 41_755_286 + 53_120
    assert macs / 1e9 == pytest.approx(134.38, abs=0.005)


def test_a_segmenter_by_hand():
    model = UNet(backbone=ConvNet(channels=[2], blocks=1), num_classes=3, decoder_channels=[4])
    # 16 x 16 cells of 3x3x3 -> 2; then 32 x 32 of 3x3x2 -> 4, 3x3x4 -> 4 and 4 -> 3.
    assert count(model, (32, 32))[1] == 256 * 27 * 2 + 1024 * (18 * 4 + 36 * 4 + 4 * 3)
    assert count(model, (31, 31))[1] == count(model, (32, 32))[1]


def test_the_model_is_left_as_it_was():
    model = Classifier(backbone=ConvNet(channels=[4], in_channels=1), num_classes=2).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count(model, (16, 16), in_channels=1)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert next(model.parameters()).device.type == "cpu"


def test_a_network_that_needs_values_has_no_count():
    class Needs(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if x.sum().item() > 0 else x

    assert count(Needs(4, 4), (4, 4)) == (20, None)


def test_images_that_the_network_does_not_take():
    with pytest.raises(ValueError, match=r"does not take images of 64 x 64 .*backbone\.image_size"):
        count(Classifier(backbone=Timm(name="test_vit_relpos"), num_classes=2), (64, 64))
