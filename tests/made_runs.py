"""Made-up run folders with known numbers, for what reads them."""

from pathlib import Path
from typing import Any

import yaml

from paribus.results import job_name, write_json, write_text

SCORES = {"none": [0.60, 0.62, 0.64], "batch": [0.90, 0.91, 0.92], "group": [0.905, 0.90, 0.925]}


def make_run(
    root: Path, *, seed: int, config: dict[str, Any], factors: dict[str, Any], **result: Any
) -> Path:
    """One run folder; `result` goes into result.json over a finished run's defaults."""
    folder = root / job_name([f"{key}={value}" for key, value in factors.items()], seed)
    folder.mkdir(parents=True)
    write_text(
        folder / "config.yaml", yaml.safe_dump({"name": root.name, "seed": seed, **config}, sort_keys=False)
    )
    defaults = {
        "status": "done",
        "seed": seed,
        "factors": factors,
        "metrics": {},
        "started": "2025-01-01T00:00:00",
    }
    write_json(folder / "result.json", defaults | result)
    return folder


def make_ablation(
    root: Path,
    scores: dict[str, list[float | None]] = SCORES,
    *,
    node: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    """The runs of an ablation of backbone.norm, one for each level and seed; a score of None: no run."""
    ablation = {
        "question": "Does normalization help?",
        "source": "Wu and He 2018",
        "factors": {"backbone.norm": list(scores)},
        "seeds": list(range(max(map(len, scores.values())))),
        "metric": "test/accuracy",
        "baseline": {"backbone.norm": "batch"},
    } | (node or {})
    for level, values in scores.items():
        for seed, value in enumerate(values):
            if value is not None:
                make_run(
                    root,
                    seed=seed,
                    config={"backbone": {"norm": level}, "optimizer": {"lr": 0.1}, "ablation": ablation},
                    factors={"backbone.norm": level},
                    **{"metrics": {"test/accuracy": value, "test/loss": 2 * (1 - value)}} | more,
                )
    return root
