"""What a device really does with a model: images a second and the most memory, forward and in training."""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paribus.profile.footprint import Optimizer, loss, total_bytes

LEAST, MOST, SECONDS = 3, 20, 5.0  # passes that are timed: as many as fit in the seconds


@dataclass(kw_only=True)
class Pass:
    """images_per_second: of the median pass. peak: bytes; None where the device does not tell."""

    images_per_second: float
    repeats: int
    peak: int | None


def measure(
    model: nn.Module,
    size: tuple[int, int],
    in_channels: int,
    batch_size: int,
    optimizer: Optimizer,
    device: torch.device,
) -> tuple[Pass, Pass]:
    """A forward pass in evaluation, and a training step (forward, backward, optimizer), in float32.

    On noise, after two passes to warm up. A detector is run whole, with one box an image to learn; the search for
    proposals, which comes before, is not in it. The loss of other tasks is left out: it costs next to nothing.

    The peak counts parameters, images and all. On a GPU it is torch's own; on a processor it is made of the
    allocations that torch's profiler records, without what libraries take for themselves.
    """
    model = model.to(device)
    images = torch.randn(batch_size, in_channels, *size, device=device)
    height, width = size
    box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]], device=device)
    target = {"boxes": box, "labels": torch.zeros(1, dtype=torch.int64, device=device)}
    arguments = [images, [target] * batch_size] if hasattr(model, "raw") else [images]
    given: dict[str, Any] = {}
    if getattr(model, "search", None):  # as many proposals as it takes, wherever
        proposer: Any = model.proposer
        corners = torch.rand(proposer.most, 2, 2, device=device).sort(1).values
        boxes = corners.flatten(1) * torch.tensor([width, height] * 2, device=device)
        given = {"proposals": [boxes] * batch_size}
    trainer = optimizer([p for p in model.parameters() if p.requires_grad])

    def forward() -> None:
        with torch.no_grad():
            model(images, **given)

    def step() -> None:
        trainer.zero_grad()
        loss(model(*arguments, **given)).backward()
        trainer.step()

    def resident() -> int:
        trainer.zero_grad()  # or their end would not be seen: it is the end of what was there before
        kept = [v for state in trainer.state.values() for v in state.values() if isinstance(v, torch.Tensor)]
        return total_bytes([*model.parameters(), *model.buffers(), *kept, images])

    model.eval()
    evaluated = _passes(forward, resident, batch_size, device)
    model.train()
    return evaluated, _passes(step, resident, batch_size, device)


def _passes(
    work: Callable[[], None], resident: Callable[[], int], batch_size: int, device: torch.device
) -> Pass:
    def timed() -> float:
        start = time.perf_counter()
        work()
        if device.type != "cpu":
            getattr(torch, device.type).synchronize()
        return time.perf_counter() - start

    for _ in range(2):
        timed()
    seconds: list[float] = []
    while len(seconds) < LEAST or (len(seconds) < MOST and sum(seconds) < SECONDS):
        seconds.append(timed())
    return Pass(
        images_per_second=batch_size / statistics.median(seconds),
        repeats=len(seconds),
        peak=_peak(work, resident, device),
    )


def _peak(work: Callable[[], None], resident: Callable[[], int], device: torch.device) -> int | None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return None
    now = most = resident()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with _silence(), torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
        work()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(file))
        events: list[Any] = json.loads(file.read_text())["traceEvents"]
    changes = sorted(
        (event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"
    )
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


@contextmanager
def _silence() -> Iterator[None]:
    """Without stderr, on which the profiler's library says that it starts and that there is no GPU."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)
