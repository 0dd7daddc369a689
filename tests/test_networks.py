"""Every network with every norm and every activation that it takes: it trains. What it refuses, it explains.

As small as its keys allow, on the smallest images at which the last map has a few cells.
"""

import re
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from paribus.models.activation import Activation, make_activation
from paribus.models.backbones.alexnet import AlexNet
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.densenet import DenseNet
from paribus.models.backbones.googlenet import GoogLeNet
from paribus.models.backbones.lenet import LeNet
from paribus.models.backbones.mlp import MLP
from paribus.models.backbones.mobilenet import MobileNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.backbones.unet import UNetEncoder
from paribus.models.backbones.vgg import VGG
from paribus.models.classifier import Classifier
from paribus.models.normalization import Norm

NORMS, ACTIVATIONS = list(get_args(Norm)), list(get_args(Activation))

NORM_CLASSES = {
    "batch": "BatchNorm2d",
    "sync_batch": "SyncBatchNorm",
    "group": "GroupNorm",
    "layer": "GroupNorm",
    "instance": "InstanceNorm",
    "local_response": "LocalResponseNorm",
    "none": None,
}
ACTIVATION_CLASSES = {a: type(make_activation(a)).__name__ for a in ACTIVATIONS}

CIFAR: dict[str, Any] = {"family": "cifar", "depth": 8}
# The class, its keys, and the images' size; each with every norm and every activation.
NETWORKS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "linear": (MLP, {"size": (8, 8), "depth": 0}, 8),
    "mlp": (MLP, {"size": (8, 8), "width": 16}, 8),
    "convnet": (ConvNet, {"channels": [8, 16]}, 16),
    "lenet": (LeNet, {}, 32),
    "alexnet": (AlexNet, {"remove": ["fc6", "fc7"]}, 67),
    "vgg": (VGG, {"configuration": "A", "hidden": [8]}, 32),
    "googlenet": (GoogLeNet, {}, 80),
    "resnet": (ResNet, {**CIFAR, "shortcut": "A"}, 16),
    "plain": (ResNet, {**CIFAR, "shortcut": "none"}, 16),
    "se_resnet": (ResNet, {**CIFAR, "se_reduction": 4}, 16),
    "resnext": (ResNet, {"depth": 50, "cardinality": 2, "base_width": 4}, 36),
    "densenet": (DenseNet, {"family": "cifar", "depth": 10, "growth": 4}, 16),
    "mobilenet": (MobileNet, {"width": 0.1}, 36),
    "unet": (UNetEncoder, {"width": 4, "depth": 3, "padded": True}, 16),
    "test_resnet": (Timm, {"name": "test_resnet"}, 36),
    "test_efficientnet": (Timm, {"name": "test_efficientnet"}, 36),
    "test_convnext": (Timm, {"name": "test_convnext"}, 36),
    "test_vit": (Timm, {"name": "test_vit"}, 36),
}
# Other forms of the same classes, on which each norm meets one activation, and each activation one norm.
FORMS: dict[str, tuple[Any, dict[str, Any], int]] = {
    "deep_mlp": (MLP, {"size": (8, 8), "width": 16, "depth": 6, "dropout": 0.1}, 8),
    "pooled_convnet": (ConvNet, {"channels": [8, 16], "kernel": 5, "stacked": True, "downsample": "max"}, 16),
    "single_alexnet": (AlexNet, {"columns": 1, "remove": ["conv3", "fc6", "fc7"]}, 64),
    "se_vgg": (VGG, {"configuration": "A", "hidden": [8], "se_reduction": 16}, 32),
    "se_googlenet": (GoogLeNet, {"kernel": 5, "last_pool": 3, "se_reduction": 16}, 96),
    "resnet18": (ResNet, {"depth": 18, "drop_path": 0.1}, 36),
    "densenet121": (DenseNet, {"depth": 121, "growth": 4, "dropout": 0.1}, 64),
    "full_mobilenet": (MobileNet, {"width": 0.1, "separable": False, "dropout": 0.1}, 36),
}

NO_BATCH_NORM = "backbone.norm={}: this network has no batch norm to replace, its norm is part of its design"
LINEAR = "backbone.depth=0 is a linear classifier, without a hidden layer"
INSTANCE = "backbone.norm=instance: it would make a constant of each unit's one value"
# All that is refused: a key, its value, the message.
REFUSED: dict[str, dict[str, dict[str, str]]] = {
    "linear": {
        "norm": {norm: LINEAR for norm in NORMS if norm != "none"} | {"instance": INSTANCE},
        "activation": {activation: LINEAR for activation in ACTIVATIONS if activation != "relu"},
    },
    "mlp": {"norm": {"instance": INSTANCE}},
    "deep_mlp": {"norm": {"instance": INSTANCE}},
    "test_convnext": {"norm": dict.fromkeys(NORMS, NO_BATCH_NORM)},
    "test_vit": {"norm": dict.fromkeys(NORMS, NO_BATCH_NORM)},
}


def allowed(network: str, key: str, values: list[str]) -> list[str]:
    return [value for value in values if value not in REFUSED.get(network, {}).get(key, {})]


def check_parts(model: nn.Module, norm: str | None = None, activation: str | None = None) -> None:
    """The norm and the activation that were asked for are there, and no other."""
    kinds = {base.__name__ for module in model.modules() for base in type(module).__mro__}
    if norm:
        assert kinds & {*NORM_CLASSES.values()} - {None} == {NORM_CLASSES[norm]} - {None}
    if activation:
        found, asked = kinds & {*ACTIVATION_CLASSES.values(), "ReLU6"}, ACTIVATION_CLASSES[activation]
        assert asked in found
        assert found <= {asked, "Sigmoid"}  # which is timm's gate


def trains(network: str, **keys: Any) -> None:
    """One forward and backward: every parameter has a finite gradient, and every convolution and every linear
    layer one that is not zero.
    """
    build, own, size = (NETWORKS | FORMS)[network]
    torch.manual_seed(0)
    model = Classifier(backbone=build(**own, **keys), num_classes=3).train()
    if network != "linear":
        check_parts(model, **keys)
    for name, parameter in model.named_parameters():
        # timm's last gamma of a residual block is zero at first, which no gradient passes.
        if name.startswith("backbone.network.") and name.endswith("weight") and not parameter.any():
            nn.init.ones_(parameter)
    logits = model(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 3)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert not without, keys
    infinite = [name for name, p in model.named_parameters() if not p.grad.isfinite().all()]
    assert not infinite, keys
    zero = [name for name, p in model.named_parameters() if p.ndim > 1 and not p.grad.any()]
    assert not zero, keys


COMBINATIONS = [(n, norm) for n in NETWORKS for norm in allowed(n, "norm", NORMS) or [None]]


@pytest.mark.parametrize(("network", "norm"), COMBINATIONS)
def test_every_network_trains_with_every_norm_and_activation(network, norm):
    chosen = {} if norm is None else {"norm": norm}
    for activation in allowed(network, "activation", ACTIVATIONS):
        trains(network, **chosen, activation=activation)


@pytest.mark.parametrize("network", FORMS)
def test_every_form_trains_with_every_norm_and_every_activation(network):
    norms = allowed(network, "norm", NORMS)
    for i, activation in enumerate(ACTIVATIONS):
        trains(network, norm=norms[i % len(norms)], activation=activation)


@pytest.mark.parametrize(("network", "key"), [(n, key) for n, keys in REFUSED.items() for key in keys])
def test_what_a_network_refuses_it_explains(network, key):
    build, own, _ = (NETWORKS | FORMS)[network]
    for value, message in REFUSED[network][key].items():
        with pytest.raises(ValueError, match=re.escape(message.format(value))):
            build(**own, **{key: value})
