"""Reads what W&B stored offline, of every release: `wandb leet inspect --json` begins with wandb 0.31."""

import json
from pathlib import Path
from typing import Any

from paribus.history import records


def run(file: Path) -> dict[str, Any]:
    """The run of a .wandb file: its fields, config, summary, and the rows of its history."""
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "exit_code": None}
    for record in records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": record.run.run_id, "project": record.run.project, "name": record.run.display_name}
            found |= {"tags": list(record.run.tags)}
            put(found["config"], record.run.config.update)
        elif kind == "config":
            put(found["config"], record.config.update)
        elif kind == "summary":
            put(found["summary"], record.summary.update)
        elif kind == "history":
            found["history"].append(put({}, record.history.item))
        elif kind == "exit":
            found["exit_code"] = record.exit.exit_code
    found["config"].pop("_wandb", None)  # what W&B says of itself
    return found


def put(into: dict[str, Any], items: Any) -> dict[str, Any]:
    """Sets what a record updates; a key may lie in dicts."""
    for item in items:
        *path, key = getattr(item, "nested_key", None) or [item.key]
        place = into
        for name in path:
            place = place.setdefault(name, {})
        place[key] = json.loads(item.value_json)
    return into
