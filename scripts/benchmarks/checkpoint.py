"""How long training stands still for a checkpoint: a copy and a thread that writes, against torch.save in the loop.

    OMP_NUM_THREADS=1 python scripts/benchmarks/checkpoint.py [--quick]

ResNet-18 with AdamW's state, 134 MB, on this machine's own disk. Ours is held up by the copy of the tensors alone, where
the one before is written; it is waited for between the rounds, outside of the clock. That both files hold the same is
checked first.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import claim, end, in_turn, quick, ratio, table
from torchvision.models import resnet18

from paribus.checkpoints import WholeFiles


def state(small: bool) -> dict[str, Any]:
    """After one step, so that the optimizer has its moments."""
    model = torch.nn.Linear(64, 64) if small else resnet18()
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.randn(2, 64) if small else torch.randn(2, 3, 64, 64)
    model(images).sum().backward()
    optimizer.step()
    return {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()], "global_step": 1}


def main() -> None:
    fast = quick(__doc__)
    kept, files = state(fast), WholeFiles()
    with tempfile.TemporaryDirectory() as folder:
        mine, theirs = Path(folder, "ours.ckpt"), Path(folder, "theirs.ckpt")

        def ours() -> float:
            start = time.perf_counter()
            files.save_checkpoint(kept, mine)
            seconds = time.perf_counter() - start
            files.wait()
            return seconds

        def torchs() -> float:
            start = time.perf_counter()
            torch.save(kept, theirs)
            return time.perf_counter() - start

        ours(), torchs()
        a, b = (torch.load(path, weights_only=True) for path in (mine, theirs))
        assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())
        found = in_turn({"ours": ours, "torch.save": torchs}, 1 if fast else 9)
        files.teardown()
    table(found, "ms that training waits", 1e3)
    claim(
        "blocking by a checkpoint",
        "torch.save in the loop",
        ratio(found["torch.save"], found["ours"]),
        ">=10",
        not fast,
        why="what is left is one copy of the weights and of the optimizer's numbers, at the speed of memory",
    )
    end()


if __name__ == "__main__":
    main()
