"""Signatures read from source equal those that inspect reads from the imported thing."""

import inspect

import pytest

from paribus.signatures import TargetError, signature


@pytest.mark.parametrize(
    "target",
    [
        "torch.optim.SGD",  # re-exported by its package
        "torch.optim.AdamW",
        "albumentations.RandomCrop",  # through `import *`, twice
        "albumentations.FancyPCA",
        "lightning.pytorch.callbacks.EarlyStopping",
        "paribus.data.module.DataModule",
        "paribus.optimizers.Cosine",  # a dataclass
    ],
)
def test_equals_inspect(target):
    import importlib

    module, _, name = target.rpartition(".")
    expected = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    found = signature(target)
    kinds = inspect.Parameter
    named = {k: p for k, p in expected.items() if p.kind not in (kinds.VAR_KEYWORD, kinds.VAR_POSITIONAL)}
    assert list(found.parameters) == list(named)
    assert {k for k, p in found.parameters.items() if p.required} == {
        k for k, p in named.items() if p.default is kinds.empty
    }
    assert found.open == any(p.kind is kinds.VAR_KEYWORD for p in expected.values())


def test_keywords_handed_to_the_base_count():
    found = signature("paribus.tasks.Classification")
    assert {"label_smoothing", "monitor", "backbone_lr_factor"} <= set(found.parameters)
    assert not found.open


def test_no_such_target():
    with pytest.raises(TargetError, match=r"torch\.optim\.SDG"):
        signature("torch.optim.SDG")
