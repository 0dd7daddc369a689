"""The classifier is the library's network, logit for logit, and every part of it is trained."""

import pytest
import timm
import torch
import torchvision

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.googlenet import GoogLeNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.vgg import VGG
from paribus.models.classifier import Classifier

FAMILIES = [
    "resnet18",
    "efficientnet_b0",
    "convnext_atto",
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "mobilenetv3_small_050",
    "densenet121",
    "test_byobnet",
]


def fill(ours, theirs):
    """The weights of timm's whole network, its last layer into the head."""
    last = theirs.get_classifier()
    own = {id(p) for p in last.parameters()}
    body = {k: v for k, v in theirs.state_dict(keep_vars=True).items() if id(v) not in own}
    ours.backbone.network.load_state_dict(body)
    ours.head.load_state_dict(last.state_dict())


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_timms(name):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=7).eval()
    ours = Classifier(backbone=Timm(name=name), num_classes=7).eval()
    fill(ours, theirs)
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_resnet18_equals_torchvisions():
    torch.manual_seed(0)
    ours = Classifier(backbone=Timm(name="resnet18"), num_classes=1000)
    for _ in range(2):
        ours(torch.randn(8, 3, 64, 64))  # batch statistics that are not 0 and 1
    theirs = torchvision.models.resnet18()
    state = dict(ours.backbone.network.state_dict())
    theirs.load_state_dict(state | {f"fc.{k}": v for k, v in ours.head.state_dict().items()})
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)


@pytest.mark.parametrize(
    "backbone",
    [
        lambda: ConvNet(channels=[8, 16]),
        lambda: Timm(name="test_resnet"),
        lambda: Timm(name="test_efficientnet", norm="group"),
        lambda: Timm(name="test_convnext"),
        lambda: Timm(name="test_vit"),
        lambda: Timm(name="mobilenetv3_small_050"),
    ],
    ids=["convnet", "resnet", "efficientnet-group", "convnext", "vit", "mobilenet"],
)
def test_every_parameter_has_a_gradient(backbone):
    torch.manual_seed(0)
    model = Classifier(backbone=backbone(), num_classes=4, dropout=0.2)
    logits = model(torch.randn(3, 3, 64, 64))
    assert logits.shape == (3, 4)
    logits.square().sum().backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


def test_a_backbone_of_maps_only_is_pooled_globally():
    class Maps(torch.nn.Conv2d):
        channels, strides = [5], [1]

        def forward(self, x):
            return [super().forward(x)]

    model = Classifier(backbone=Maps(3, 5, 1), num_classes=2)
    x = torch.randn(2, 3, 9, 7)
    assert torch.allclose(model(x), model.head(model.backbone(x)[0].mean((2, 3))))


def test_dropout_acts_in_training_only():
    model = Classifier(backbone=ConvNet(channels=[8], norm="group"), num_classes=3, dropout=0.5)
    x = torch.randn(2, 3, 16, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    "backbone", [lambda: Timm(name="vgg11"), lambda: VGG(configuration="A", hidden=[32, 16])]
)
def test_global_average_pooling_instead_of_fully_connected_layers(backbone):
    """Lin et al. 2014: one override, and of the network only its fully connected layers go."""
    own = Classifier(backbone=backbone(), num_classes=5)
    average = Classifier(backbone=backbone(), num_classes=5, head="average")
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(average(x), average.head(average.backbone(x)[-1].mean((2, 3))))
    convolutions = 9_220_480
    assert sum(p.numel() for p in average.parameters()) == convolutions + 512 * 5 + 5
    assert sum(p.numel() for p in own.parameters()) > convolutions + 512 * 49 * 32
    average(x).sum().backward()
    assert all(p.grad is not None for p in average.parameters())


def test_fully_connected_layers_on_any_backbone():
    model = Classifier(
        backbone=ResNet(depth=18), num_classes=5, head="fully_connected", hidden=[64, 32], grid=2, dropout=0.5
    ).eval()
    count = sum(p.numel() for p in model.parameters())
    assert count == 11_689_512 - 513_000 + (512 * 4 * 64 + 64) + (64 * 32 + 32) + (32 * 5 + 5)
    x = torch.randn(2, 3, 64, 64)  # a map of 2 x 2 cells
    first, second = (m for m in model.fully_connected if isinstance(m, torch.nn.Linear))
    with torch.no_grad():
        features = second(first(model.backbone(x)[-1].flatten(1)).relu()).relu()
        torch.testing.assert_close(model(x), model.head(features))
    assert model(torch.randn(2, 3, 128, 96)).shape == (2, 5)


def test_auxiliary_classifiers_are_of_training_only():
    torch.manual_seed(0)
    model = Classifier(backbone=GoogLeNet(norm="none"), num_classes=7, auxiliary=True)
    x = torch.randn(2, 3, 96, 96)
    logits, first, second = model.train()(x)
    assert logits.shape == first.shape == second.shape == (2, 7)
    (logits.sum() + first.sum() + second.sum()).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]
    with torch.no_grad():
        alone = Classifier(backbone=model.backbone, num_classes=7)
        alone.head = model.head
        torch.testing.assert_close(model.eval()(x), alone.eval()(x))


def test_auxiliary_classifiers_have_the_published_parameters():
    with torch.device("meta"):
        model = Classifier(backbone=GoogLeNet(norm="batch", kernel=3), num_classes=1000, auxiliary=True)
    assert sum(p.numel() for p in model.parameters()) == 13_004_888


def test_auxiliary_classifiers_need_places():
    with pytest.raises(ValueError, match=r"model.auxiliary: ResNet has no places .*model.auxiliary=false"):
        Classifier(backbone=ResNet(depth=18), num_classes=2, auxiliary=True)
