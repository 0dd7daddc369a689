"""Blocks computed twice: the same training, in less memory."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.resnet import ResNet
from paribus.models.backbones.timm import Timm
from paribus.models.blocks import blocks, recomputed
from paribus.models.classifier import Classifier
from paribus.profile.footprint import footprint

NETWORKS = {
    "resnet": partial(ResNet, depth=18, dropout=0.3),
    "convnet": partial(ConvNet, channels=[8, 16]),
    "vit": partial(Timm, name="vit_tiny_patch16_224", drop_path=0.2, image_size=(64, 64)),
    "convnext": partial(Timm, name="convnext_atto"),
    "efficientnet": partial(Timm, name="efficientnet_b0", drop_path=0.2, dropout=0.2),
    "swin": partial(Timm, name="swin_tiny_patch4_window7_224"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_blocks_hold_most_of_a_network_and_are_called_whole(name):
    """One that is not called by itself could neither be computed twice nor be lent by other processes."""
    backbone = NETWORKS[name]()
    found, called = blocks(backbone), set()
    for block in found:
        block.register_forward_hook(lambda module, *_: called.add(module))
    images = torch.zeros(2, 3, 64, 64)
    with torch.no_grad():
        backbone.embed(images) if hasattr(backbone, "embed") else backbone(images)
    assert called == set(found)
    inside = sum(p.numel() for block in found for p in block.parameters())
    assert inside >= 0.85 * sum(p.numel() for p in backbone.parameters())
    # None within another: each weight is in one of them at most.
    assert len({id(p) for block in found for p in block.parameters()}) == sum(
        len(list(block.parameters())) for block in found
    )


@pytest.mark.parametrize("name", ["resnet", "convnet", "vit", "efficientnet"])
def test_the_same_gradients_draws_and_statistics_bit_for_bit(name):
    torch.manual_seed(0)
    plain = Classifier(backbone=NETWORKS[name](), num_classes=5).train()
    twice, images = copy.deepcopy(plain), torch.randn(4, 3, 64, 64)

    def step(model: nn.Module) -> torch.Tensor:
        torch.manual_seed(1)
        loss = model(images).square().mean()
        loss.backward()
        return loss

    expected = step(plain)
    with recomputed(twice.backbone):
        loss = step(twice)
        assert not any("_checkpoint" in key for key in twice.state_dict())
    assert torch.equal(loss, expected)
    for (key, a), b in zip(plain.named_parameters(), twice.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad), key
    for (key, a), b in zip(plain.named_buffers(), twice.buffers(), strict=True):
        assert torch.equal(a, b), key
    assert torch.equal(plain.eval()(images), twice.eval()(images))  # and outside it is as it was


def test_frozen_batch_norms_keep_their_statistics():
    backbone = ResNet(depth=18)
    for norm in backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eval()
    before = copy.deepcopy(backbone.state_dict())
    with recomputed(backbone):
        backbone(torch.randn(2, 3, 32, 32))[-1].sum().backward()
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_it_takes_less_memory():
    model = Classifier(backbone=ResNet(depth=50), num_classes=10)
    kept = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.untyped_storage())
        return tensor

    def held() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(torch.zeros(2, 3, 64, 64))
        return sum({s.data_ptr(): s.nbytes() for s in kept}.values()) - weights

    weights = sum(p.nbytes for p in model.parameters())
    plain = held()
    with recomputed(model.backbone):
        assert held() < 0.35 * plain
    foretold = footprint(model, (64, 64), 3, 2, partial(torch.optim.SGD, lr=0.1)).activations
    assert foretold == pytest.approx(plain, rel=0.05)


def test_a_row_of_layers_is_refused():
    with (
        pytest.raises(ValueError, match=r"checkpoint_activations: Sequential is no row of blocks"),
        recomputed(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))),
    ):
        pass
