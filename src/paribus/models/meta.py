"""A network without values, on torch's meta device: it runs, and only shapes come of it."""

import copy
from typing import Any

from torch import nn


def on_meta(model: nn.Module) -> nn.Module:
    """A copy of shapes; the model keeps its values, which are not copied."""
    # deepcopy finds its copies of the tensors in the memo, so no value is copied.
    memo: dict[int, Any] = {
        id(p): nn.Parameter(p.detach().to("meta"), requires_grad=p.requires_grad) for p in model.parameters()
    }
    memo |= {id(b): b.to("meta") for b in model.buffers()}
    return copy.deepcopy(model, memo)
