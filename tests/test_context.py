"""Pyramids of dilated convolutions and of poolings: torchvision's and smp's values, and single images in training."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3 as torchvisions

from paribus.models.context import ASPP, SPP, Pooled, atrous, means


def put_across(ours, theirs):
    """The weights of another library's module, in order, and all statistics drawn."""
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
    values = theirs.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)))
    ours.eval(), theirs.eval()


def test_aspp_gives_torchvisions_values():
    theirs = torchvisions.ASPP(12, [2, 4, 6], 8)
    ours = ASPP(12, 8, rates=[2, 4, 6])
    put_across(ours, theirs)
    x = torch.randn(2, 12, 9, 11)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("separable", [True, False])
def test_aspp_gives_the_values_of_segmentation_models_pytorch(separable):
    decoders = pytest.importorskip("segmentation_models_pytorch.decoders.deeplabv3.decoder")
    theirs = decoders.ASPP(12, 8, (1, 2, 3), separable=separable, dropout=0.5)
    ours = ASPP(12, 8, rates=[1, 2, 3], separable=separable, dropout=0.5)
    put_across(ours, theirs)
    x = torch.randn(2, 12, 9, 11)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)


def test_pyramid_pooling_gives_the_values_of_segmentation_models_pytorch():
    """Theirs enlarges with aligned corners, has no norm at a single cell, and a 1x1 in place of the paper's 3x3."""
    decoders = pytest.importorskip("segmentation_models_pytorch.decoders.pspnet.decoder")
    theirs = decoders.PSPModule(12, sizes=(1, 2, 3, 6))
    ours = SPP(12, 8, bins=[1, 2, 3, 6]).eval()
    x = torch.randn(2, 12, 12, 12)
    for bins, branch, block in zip([1, 2, 3, 6], ours.branches, theirs.blocks, strict=True):
        if bins == 1:
            branch.layers[0].load_state_dict({"weight": block.pool[1][0].weight})
            nn.init.zeros_(block.pool[1][0].bias)
            expected = block.eval()(x)
            assert torch.allclose(branch(x), expected / (1 + 1e-5) ** 0.5, atol=1e-6)
        else:
            put_across(branch, block)
            expected = F.interpolate(block.pool(x), size=(12, 12), mode="bilinear", align_corners=False)
            assert torch.allclose(branch(x), expected, atol=1e-6)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
@pytest.mark.parametrize("size", [(12, 6), (7, 11), (2, 5), (1, 1)])
def test_means_are_adaptive_average_pooling(bins, size):
    x = torch.randn(2, 3, *size)
    assert torch.allclose(means(x, bins), F.adaptive_avg_pool2d(x, bins), atol=1e-6)


@pytest.mark.parametrize(
    "norm", ["batch", "sync_batch", "group", "layer", "instance", "local_response", "none"]
)
@pytest.mark.parametrize(
    "make", [lambda **k: ASPP(8, 6, rates=[1, 2], **k), lambda **k: SPP(8, 6, bins=[1, 2], **k)]
)
@pytest.mark.parametrize("separable", [True, False])
def test_one_image_trains_every_parameter_with_any_norm(make, norm, separable):
    torch.manual_seed(0)
    module = make(norm=norm, activation="prelu", separable=separable)
    out = module(torch.randn(1, 8, 5, 7))
    assert out.shape == (1, 6, 5, 7)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    # The branch of a single cell still says something of the image.
    pooled = next(b for b in module.branches if isinstance(b, Pooled))
    assert any(p.grad.abs().sum() > 0 for p in pooled.parameters())
    assert pooled(torch.randn(1, 8, 5, 7)).std() > 0


def test_one_image_is_normalized_by_running_statistics_and_leaves_them_alone():
    torch.manual_seed(0)
    pooled = Pooled(8, 6, bins=1, norm="batch", activation="tanh")
    for _ in range(3):
        pooled(torch.randn(4, 8, 5, 5))
    norm = pooled.layers[1]
    before = norm.running_mean.clone(), norm.running_var.clone()
    assert before[0].abs().sum() > 0
    x = torch.randn(1, 8, 5, 5)
    trained = pooled(x)
    assert torch.equal(norm.running_mean, before[0])
    assert torch.equal(norm.running_var, before[1])
    assert torch.allclose(trained, pooled.eval()(x))
    assert not torch.equal(
        pooled.train()(x.repeat(2, 1, 1, 1) * torch.tensor([1.0, 2])[:, None, None, None])[:1], trained
    )


def test_a_single_cell_is_copied_as_bilinear_enlarging_would():
    pooled = Pooled(4, 3, bins=1, norm="group", activation="relu").eval()
    x = torch.randn(2, 4, 5, 6)
    expected = F.interpolate(pooled.layers(x.mean((2, 3), keepdim=True)), size=(5, 6), mode="bilinear")
    assert torch.allclose(pooled(x), expected, atol=1e-6)


@pytest.mark.parametrize("separable", [True, False])
def test_the_cells_of_an_atrous_convolution_are_its_rate_apart(separable):
    block = atrous(2, 3, rate=3, separable=separable, norm="none")
    x = torch.zeros(1, 2, 15, 15, requires_grad=True)
    block[0](x)[0, 0, 7, 7].backward()
    rows, columns = x.grad[0].abs().sum(0).nonzero().T
    assert sorted(set(rows.tolist())) == sorted(set(columns.tolist())) == [4, 7, 10]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ASPP(4, 4, rates=[]), r"model\.rates=\[\]: one or more"),
        (lambda: ASPP(4, 4, rates=[6, 0]), r"model\.rates=\[6, 0\]: .*null: by the output stride"),
        (lambda: SPP(4, 4, bins=[]), r"model\.bins=\[\]: .*in the paper \[1, 2, 3, 6\]"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
