"""The ways to enlarge a map: each equals its library's or its definition, at any size, and can be learned through."""

from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from paribus.models.upsampling import Upsample, Upsampling, check_unpooling

KINDS = list(get_args(Upsampling))


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(6, 8), (7, 9), (5, 7)])
@pytest.mark.parametrize("kind", ["nearest", "bilinear"])
def test_nearest_and_bilinear_are_torchs(kind, size):
    x = random(2, 3, 3, 4)
    expected = F.interpolate(x, size=size, mode=kind)
    assert torch.equal(Upsample(kind, 3)(x, size), expected)


def test_bed_of_nails_puts_the_value_first_and_zeros_beside_it():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    two = Upsample("bed_of_nails", 1)
    assert two(x, (4, 4)).squeeze().tolist() == [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
    assert two(x, (3, 5)).squeeze().tolist() == [[1, 0, 2, 0, 0], [0, 0, 0, 0, 0], [3, 0, 4, 0, 0]]
    four = Upsample("bed_of_nails", 1, factor=4)(x, (8, 8)).squeeze()
    assert torch.equal(four[::4, ::4], x.squeeze())
    assert four.count_nonzero() == 4


@pytest.mark.parametrize(
    ("size", "factor"), [((8, 6), 2), ((45, 60), 2), ((9, 7), 2), ((8, 16), 4), ((11, 17), 4)]
)
@pytest.mark.parametrize("channels_last", [False, True])
def test_max_unpool_equals_torchs_in_value_and_gradient(size, factor, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    fine = random(2, 3, *size).to(memory_format=layout)
    x = random(2, 3, size[0] // factor, size[1] // factor).to(memory_format=layout).requires_grad_()
    weights = random(2, 3, *size).flip(0)
    _, index = nn.MaxPool2d(factor, return_indices=True)(fine)
    expected = nn.MaxUnpool2d(factor)(x, index, output_size=fine.shape)
    found = Upsample("max_unpool", 3, fine_channels=3, factor=factor)(x, size, fine)
    assert torch.equal(found, expected)
    wanted, given = (torch.autograd.grad((y * weights).sum(), x)[0] for y in (expected, found))
    assert torch.equal(given, wanted)


def test_of_equal_maxima_the_first_alone_gets_the_value():
    x = torch.ones(1, 2, 3, 3)
    found = Upsample("max_unpool", 2, fine_channels=2)(x, (6, 6), torch.zeros(1, 2, 6, 6))
    assert torch.equal(found, Upsample("bed_of_nails", 2)(x, (6, 6)))


def test_max_unpool_has_the_finer_maps_channels_and_is_nearest_without_one():
    up = Upsample("max_unpool", 5, fine_channels=3)
    assert isinstance(up.change, nn.Conv2d)
    assert up.change.kernel_size == (1, 1)
    assert up(random(1, 5, 2, 2), (4, 4), random(1, 3, 4, 4)).shape == (1, 3, 4, 4)
    x = random(1, 5, 2, 2)
    without = Upsample("max_unpool", 5)
    assert torch.equal(without(x, (4, 4)), F.interpolate(x, size=(4, 4)))
    assert not list(without.parameters())


@pytest.mark.parametrize("factor", [2, 8])
def test_transposed_can_start_as_bilinear(factor):
    x = random(1, 3, 5, 6)
    up = Upsample("transposed", 3, factor=factor, kernel=2 * factor, bias=False, start="bilinear")
    size = (5 * factor, 6 * factor)
    inner = (..., slice(factor, -factor), slice(factor, -factor))  # at the border the convolution sees zeros
    expected = F.interpolate(x, size=size, mode="bilinear")
    assert torch.allclose(up(x, size)[inner], expected[inner], atol=1e-6)
    assert sum(p.numel() for p in up.parameters()) == 9 * (2 * factor) ** 2


@pytest.mark.parametrize("kernel", [2, 4])
def test_transposed_starts_with_the_variance_of_its_input(kernel):
    torch.manual_seed(0)
    up = Upsample("transposed", 256, out_channels=64, kernel=kernel)
    y = up(torch.randn(2, 256, 20, 20), (40, 40))
    assert y.shape == (2, 64, 40, 40)
    assert y.std().item() == pytest.approx(1, abs=0.1)


def test_transposed_without_overlap_is_torchs_transposed_convolution():
    up = Upsample("transposed", 4, out_channels=3)
    theirs = nn.ConvTranspose2d(4, 3, 2, 2)
    theirs.load_state_dict(up.change.state_dict())
    x = random(1, 4, 5, 5)
    assert torch.equal(up(x, (10, 10)), theirs(x))
    assert torch.equal(up(x, (9, 9)), theirs(x)[..., :9, :9])


@pytest.mark.parametrize("size", [(12, 16), (11, 13), (13, 17), (1, 2)])
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_size_and_a_gradient(kind, factor, size):
    torch.manual_seed(0)
    x = torch.randn(1, 6, -(-size[0] // factor), -(-size[1] // factor), requires_grad=True)
    up = Upsample(kind, 6, out_channels=4, fine_channels=4, factor=factor)
    y = up(x, size, torch.randn(1, 4, *size))
    assert y.shape == (1, 4, *size)
    y.square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in up.parameters())
    assert x.grad.any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_factor_of_one_leaves_the_map_as_it_is(kind):
    x = random(1, 3, 5, 7)
    up = Upsample(kind, 3, fine_channels=3, factor=1)
    assert torch.equal(up(x, (5, 7), random(1, 3, 5, 7)), x)
    assert not list(up.parameters())


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "bilinear"])
def test_only_operations_that_repeat_exactly_on_cuda(kind):
    # https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
    x, fine = random(1, 3, 4, 4).requires_grad_(), random(1, 3, 7, 8).requires_grad_()
    with Operations() as used:
        Upsample(kind, 3, fine_channels=3)(x, (7, 8), fine).sum().backward()
    assert not [name for name in used.names if "unpool" in name or "bilinear" in name or "scatter" in name]
    assert "max_pool2d_with_indices_backward" not in used.names  # the places of the maxima need no gradient


def test_what_it_refuses_it_explains():
    with pytest.raises(
        ValueError, match=r"model\.upsampling=cubic: one of nearest, bed_of_nails, max_unpool"
    ):
        Upsample("cubic", 3)
    for kernel in (1, 3):
        with pytest.raises(ValueError, match=f"a kernel of {kernel} does not enlarge 2 times"):
            Upsample("transposed", 3, kernel=kernel)
    with pytest.raises(ValueError, match="a bilinear start needs a kernel of 2"):
        Upsample("transposed", 3, kernel=2, start="bilinear")
    with pytest.raises(ValueError, match=r"max_unpool: the maps of this backbone all have stride 16, none"):
        check_unpooling("max_unpool", [16, 16, 16])
    check_unpooling("max_unpool", [8, 16])
    check_unpooling("nearest", [16, 16])
