"""Backbones: the maps they promise, the sizes they take, the refusals, and weights from files."""

from typing import get_args

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import DropPath

from paribus.models.backbones import dense, depths
from paribus.models.backbones.alexnet import AlexNet
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.classifier import Classifier
from paribus.models.normalization import Norm

NORMS = get_args(Norm)
# One of each kind of pyramid: strides 2 to 32, 4 to 32, 1 to 32, 16 only, channels last.
PYRAMIDS = {
    "test_resnet": [2, 4, 8, 16, 32],
    "test_efficientnet": [2, 4, 8, 16, 32],
    "test_byobnet": [2, 4, 8, 16, 32],
    "densenet121": [2, 4, 8, 16, 32],
    "mobilenetv1_100": [2, 4, 8, 16, 32],
    "test_convnext": [4, 8, 16, 32],
    "swin_tiny_patch4_window7_224": [4, 8, 16, 32],
    "test_vit": [16, 16, 16],
}


def check_maps(backbone, size=(64, 96)):
    maps = backbone(torch.randn(2, 3, *size))
    assert [m.shape[1] for m in maps] == backbone.channels
    assert [(size[0] // m.shape[2], size[1] // m.shape[3]) for m in maps] == [
        (s, s) for s in backbone.strides
    ]
    return maps


def check_gradients(module, loss):
    loss.backward()
    without = [name for name, p in module.named_parameters() if p.grad is None]
    assert not without
    assert all(p.grad.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("name", PYRAMIDS)
def test_channels_and_strides_are_those_of_the_maps(name):
    backbone = Timm(name=name)
    assert backbone.strides == PYRAMIDS[name]
    check_maps(backbone.eval())


@pytest.mark.parametrize(
    "name", ["vgg11_bn", "resnext50_32x4d", "seresnet50", "regnetx_002", "hrnet_w18_small"]
)
def test_channels_and_strides_of_larger_networks(name):
    with torch.device("meta"):
        backbone = Timm(name=name).eval()
        check_maps(backbone)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_every_parameter_of_a_dense_backbone_has_a_gradient(name):
    backbone = dense(Timm(name=name))
    maps = check_maps(backbone)
    check_gradients(backbone, sum(m.square().mean() for m in maps))


@pytest.mark.parametrize("name", ["test_vit", "swin_tiny_patch4_window7_224", "test_resnet", "test_convnext"])
def test_any_input_size(name):
    backbone = Timm(name=name).eval()
    with torch.no_grad():
        for size in [(64, 64), (100, 76), (36, 160)]:
            maps = backbone(torch.randn(1, 3, *size))
            assert all(m.isfinite().all() for m in maps)
            assert backbone.embed(torch.randn(1, 3, *size)).shape == (1, backbone.embedding)


def test_a_network_tied_to_its_input_size_is_built_for_another():
    check_maps(Timm(name="test_vit_relpos", image_size=(64, 96)).eval())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_every_norm_on_timm(name, norm):
    torch.manual_seed(0)
    backbone = dense(Timm(name=name, norm=norm))
    maps = check_maps(backbone, size=(96, 96))
    assert all(0.01 < m.square().mean() < 100 for m in maps)
    check_gradients(backbone, sum(m.square().mean() for m in maps))


def test_the_norm_changes_no_other_weight():
    def convolutions(norm):
        torch.manual_seed(3)
        model = Classifier(backbone=Timm(name="test_resnet", norm=norm), num_classes=4)
        return [p for p in model.parameters() if p.ndim > 1]

    for norm in NORMS:
        assert all(torch.equal(a, b) for a, b in zip(convolutions(None), convolutions(norm), strict=True))


@pytest.mark.parametrize("norm", [None, "none"])
def test_input_channels(norm):
    backbone = Timm(name="test_resnet", in_channels=1, norm=norm)
    maps = backbone(torch.randn(2, 1, 64, 64))
    assert [m.shape[1] for m in maps] == backbone.channels


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("test_resnet", 8),
        ("test_resnet", 16),
        ("test_efficientnet", 8),
        ("test_convnext", 16),
        ("densenet121", 16),
        ("resnet18", 4),
    ],
)
def test_output_stride(name, stride):
    backbone = Timm(name=name, output_stride=stride)
    assert max(backbone.strides) == stride
    check_maps(backbone.eval())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "resnt18"}, "no network 'resnt18'; near: resnet18"),
        ({"name": "resnet18.made_up"}, "no weights 'resnet18.made_up'; there are: .*resnet18.a1_in1k"),
        ({"name": "test_resnet", "norm": "bath"}, "no norm 'bath'; there are: batch"),
        (
            {"name": "test_vit", "norm": "group"},
            "backbone.name=test_vit: backbone.norm=group: .*no batch norm",
        ),
        ({"name": "test_convnext", "norm": "batch"}, "no batch norm"),
        ({"name": "levit_128s", "norm": "group"}, "normalizes vectors"),
        ({"name": "resnet18", "output_stride": 12}, "output_stride=12: resnet18 can have 2, 4, 8, 16, 32"),
        ({"name": "test_vit", "output_stride": 8}, "test_vit can have 16"),
        ({"name": "ghostnet_050", "drop_path": 0.1}, "backbone.drop_path: ghostnet_050 has none"),
        ({"name": "test_resnet", "image_size": (64, 64)}, "backbone.image_size: test_resnet takes any"),
        ({"name": "resnet18", "pretrained": True, "weights": "x"}, "choose one"),
        ({"name": "test_resnet", "weights": "/nowhere"}, "there is no /nowhere"),
    ],
)
def test_what_a_network_cannot_do_is_refused_with_what_it_can(arguments, message):
    with pytest.raises(ValueError, match=message):
        Timm(**arguments)


def test_an_output_stride_that_the_network_has_anyway_is_fine():
    assert Timm(name="test_vit", output_stride=16).strides == [16, 16, 16]


def test_pretrained_without_a_network_names_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"weights of resnet18 cannot be had.*backbone\.weights=<file>"):
        Timm(name="resnet18", pretrained=True)


def test_drop_path_rises_to_the_rate_given():
    rates = [
        m.drop_prob for m in Timm(name="test_resnet", drop_path=0.2).modules() if isinstance(m, DropPath)
    ]
    assert max(rates) == pytest.approx(0.2)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_from_timms_own_file(tmp_path, suffix):
    source = timm.create_model("test_resnet", num_classes=9)
    file = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in source.state_dict().items()}}, file)
    else:
        save_file(source.state_dict(), file)
    backbone = Timm(name="test_resnet", weights=str(file))
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone.eval()(x)[-1], source.eval().forward_features(x))


@pytest.mark.parametrize("norm", [None, "group", "none"])
def test_weights_from_a_run_folder_of_the_same_norm(tmp_path, norm):
    torch.manual_seed(1)
    source = Classifier(backbone=Timm(name="test_efficientnet", norm=norm), num_classes=3).train()
    source(torch.randn(4, 3, 64, 64))
    (tmp_path / "checkpoints").mkdir()
    state = {f"model.{k}": v for k, v in source.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "checkpoints" / "last.ckpt")
    backbone = Timm(name="test_efficientnet", norm=norm, weights=str(tmp_path))
    expected = source.backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.state_dict().items())


def test_weights_with_batch_statistics_are_folded_when_the_norm_is_left_out(tmp_path):
    source = timm.create_model("test_efficientnet", num_classes=0).train()
    source(1 + torch.randn(8, 3, 64, 64))
    torch.save(source.state_dict(), tmp_path / "w.pth")
    x = torch.randn(2, 3, 64, 64)
    backbone = Timm(name="test_efficientnet", norm="none", weights=str(tmp_path / "w.pth"))
    assert torch.allclose(backbone.eval().embed(x), source.eval()(x), atol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(timm.create_model("test_efficientnet").state_dict(), tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"1 of the network's \d+ tensors match .*missing in the file: conv1"
    ):
        Timm(name="test_resnet", weights=str(tmp_path / "w.pth"))


def stripes(count):
    """Four classes of grey images: bars across or down, wide or narrow, anywhere."""
    steps = torch.arange(32.0)
    labels = torch.arange(count) % 4
    waves = [torch.sin(steps * (0.4 if label < 2 else 0.8) + 6 * torch.rand(())) for label in labels]
    images = torch.stack(
        [(w[:, None] if k % 2 else w[None]).expand(32, 32) for w, k in zip(waves, labels, strict=True)]
    )
    return images[:, None].repeat(1, 3, 1, 1) + 0.5 * torch.randn(count, 3, 32, 32), labels


@pytest.mark.parametrize("norm", NORMS)
def test_the_convnet_learns_with_every_norm(norm):
    torch.manual_seed(0)
    model = Classifier(backbone=ConvNet(channels=[8, 16, 24], norm=norm), num_classes=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        images, labels = stripes(32)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, labels = stripes(64)
    assert (model.eval()(images).argmax(1) == labels).float().mean() > 0.8


@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_on_the_convnet(norm):
    torch.manual_seed(0)
    backbone = ConvNet(channels=[8, 16, 24], norm=norm)
    maps = check_maps(backbone, size=(32, 64))
    assert all(0.01 < m.square().mean() < 100 for m in maps)
    check_gradients(backbone, sum(m.square().mean() for m in maps))
    assert backbone.embed(torch.randn(3, 3, 29, 17)).shape == (3, backbone.embedding)


def test_convnet_embeds_the_quarters_of_its_last_map():
    backbone = ConvNet(channels=[4, 6]).eval()
    x = torch.randn(2, 3, 32, 32)
    last = backbone(x)[-1]
    assert torch.allclose(backbone.embed(x)[:, 6:12], last[:, :, :4, 4:].mean((2, 3)), atol=1e-6)


def test_convnet_refuses_images_without_quarters():
    with pytest.raises(ValueError, match=r"images of 9 pixels or more .*, not \(8, 32\)"):
        ConvNet(channels=[4, 4, 4]).embed(torch.randn(2, 3, 8, 32))


def test_convnet_refuses_to_be_empty():
    with pytest.raises(ValueError, match=r"channels=\[\]"):
        ConvNet(channels=[])


@pytest.mark.parametrize("fine", [False, True])
def test_ours_and_timms_are_as_deep(fine):
    """The same network in two libraries: the same parameters at each depth, the stem's first."""

    def sizes(backbone):
        place = depths(backbone, fine)
        assert place.keys() == {name for name, _ in backbone.named_parameters()}
        groups = {}
        for name, parameter in backbone.named_parameters():
            groups[place[name]] = groups.get(place[name], 0) + parameter.numel()
        return groups

    ours = sizes(ResNet(depth=18))
    assert ours == sizes(Timm(name="resnet18"))
    assert sorted(ours) == list(range(9 if fine else 5))


def test_what_follows_the_last_map_is_as_deep_as_it():
    place = depths(AlexNet())
    assert place["fc.2.weight"] == max(place.values())
    assert place["stages.0.0.0.weight"] == 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"activation": "swish"},
            "backbone.name=test_resnet: backbone.activation=swish: there is no activation",
        ),
        ({"init": "lecun"}, "backbone.name=test_resnet: backbone.init=lecun: default, he, xavier"),
        ({"init": "he", "pretrained": True}, "backbone.init=he would draw pretrained weights anew"),
    ],
)
def test_knobs_of_timms_that_cannot_be(keys, message, monkeypatch):
    make = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained, **keys: make(name, **keys))
    with pytest.raises(ValueError, match=message):
        Timm(name="test_resnet", **keys)


def test_dropout_of_timms_is_its_own():
    backbone = Timm(name="test_resnet", dropout=0.5).train()
    torch.nn.Module.apply(backbone, lambda m: m.eval() if isinstance(m, torch.nn.BatchNorm2d) else None)
    x = torch.randn(1, 3, 64, 64)
    assert not torch.equal(backbone.embed(x), backbone.embed(x))
    assert torch.equal(backbone.eval().embed(x), backbone.embed(x))


def test_weights_in_order_leave_out_learned_slopes(tmp_path):
    file = tmp_path / "resnet18.pth"
    torch.save(timm.create_model("resnet18").state_dict(), file)
    network = ResNet(depth=18, activation="prelu", weights=str(file))
    slopes = [m.weight.item() for m in network.modules() if isinstance(m, torch.nn.PReLU)]
    assert slopes == [0.25] * 17
