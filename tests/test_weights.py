"""Weights from files: every format, every nesting, and never a network half loaded."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from paribus.models.weights import checkpoint_file, load_weights, read_weights


def network(width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))


def saved(tmp_path, content, name="w.pth"):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return str(path)


def same(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


@pytest.mark.parametrize(
    ("wrap", "prefixes"),
    [
        (lambda s: s, ("",)),
        (lambda s: {"state_dict": s, "epoch": 2}, ("",)),
        (lambda s: {"model": s}, ("",)),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, ("",)),
        (lambda s: {"state_dict": {f"model.backbone.{k}": v for k, v in s.items()}}, ("", "model.backbone.")),
        (
            lambda s: {"state_dict": {f"model._orig_mod.backbone.{k}": v for k, v in s.items()}},
            ("model.backbone.",),
        ),
    ],
    ids=["plain", "state_dict", "model", "data-parallel", "lightning", "compiled"],
)
def test_each_nesting_is_loaded(tmp_path, wrap, prefixes):
    source, target = network(), network()
    assert load_weights(target, saved(tmp_path, wrap(source.state_dict())), prefixes) == 7
    assert same(source, target)


def test_safetensors(tmp_path):
    source, target = network(), network()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(target, str(tmp_path / "w.safetensors"))
    assert same(source, target)


def test_a_run_folder_gives_its_best_checkpoint_then_its_last(tmp_path):
    last = saved(tmp_path, {}, "checkpoints/last.ckpt")
    assert str(checkpoint_file(str(tmp_path))) == last
    best = saved(tmp_path, {}, "checkpoints/best.ckpt")
    assert str(checkpoint_file(str(tmp_path))) == best


def test_what_is_outside_of_the_prefix_belongs_to_others(tmp_path):
    source, target = network(), network()
    state = {f"model.backbone.{k}": v for k, v in source.state_dict().items()} | {
        "model.head.weight": torch.ones(2)
    }
    load_weights(target, saved(tmp_path, {"state_dict": state}), ("model.backbone.", ""))
    assert same(source, target)


def test_a_classifier_may_be_left_out_but_nothing_else(tmp_path):
    source, target = network(), network()
    file = saved(
        tmp_path, source.state_dict() | {"fc.weight": torch.ones(2), "fc_norm.weight": torch.ones(2)}
    )
    with pytest.raises(ValueError, match=r"7 of the network's 7 .*unexpected in the file: fc_norm\.weight$"):
        load_weights(target, file, ignore=("fc",))
    assert load_weights(target, file, ignore=("fc", "fc_norm")) == 7


def test_every_mismatch_is_listed_and_nothing_is_loaded(tmp_path):
    source, target = network(6), network()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    state = source.state_dict() | {"extra": torch.ones(1)}
    del state["0.bias"]
    with pytest.raises(ValueError, match="1 of the network's 7 tensors match") as error:
        load_weights(target, saved(tmp_path, state))
    assert "missing in the file: 0.bias;" in str(error.value)
    assert "unexpected in the file: extra;" in str(error.value)
    assert "of another shape: 0.weight (6, 3, 3, 3), not (4, 3, 3, 3), 1.weight (6,)" in str(error.value)
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_long_lists_are_cut(tmp_path):
    state = network().state_dict() | {f"x{i}": torch.ones(1) for i in range(20)}
    with pytest.raises(ValueError, match="x7, … and 12 more"):
        load_weights(network(), saved(tmp_path, state))


def test_code_in_a_file_is_not_run(tmp_path):
    with pytest.raises(ValueError, match=r"cannot be read as tensors and plain data \(UnpicklingError\)"):
        read_weights(saved(tmp_path, network()))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_broken_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        read_weights(str(tmp_path / name))


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="there is no /nowhere"):
        checkpoint_file("/nowhere")
    with pytest.raises(ValueError, match="is no run folder"):
        checkpoint_file(str(tmp_path))
    with pytest.raises(ValueError, match="holds no state dict"):
        read_weights(saved(tmp_path, {"epoch": 3}))
