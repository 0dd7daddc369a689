"""Every YAML of the tree composes, and every key in it is read by what it configures."""

import pytest

from composing import composed
from paribus import config
from paribus.checks import check
from paribus.contradictions import MODELS, ROOMS, TASKS
from paribus.sweep.callback import written

OPTIONS = sorted((path.parent.name, path.stem) for path in config.CONF.glob("*/*.yaml"))


def kind(group: str, option: str) -> str:
    """The kind of target that an option is for."""
    node = composed(f"{group}={option}")[group]
    if group == "task":
        return node.target
    target = node.reader._target_ if group == "data" else node._target_
    return next((kinds[0] for prefix, kinds in ROOMS.items() if target.startswith(prefix)), "label")


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids=lambda value: str(value))
def test_every_option_composes_and_every_key_is_read(group, option):
    overrides = [f"{group}={option}"]
    if group in ("data", "model", "task"):
        target = kind(group, option)
        overrides += [f"task={TASKS[target]}"] if group != "task" else []
        overrides += [f"model={MODELS[target]}"] if group != "model" else []
    cfg = composed(*overrides)
    checked = check(cfg)
    assert checked.name


def test_every_root_composes():
    for root in ("convert", "dashboard", "evaluate", "export", "predict", "profile", "report"):
        composed(root=root)


@pytest.mark.parametrize(
    "path", sorted(config.CONF.rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_every_file_says_what_it_is(path):
    first, *rest = path.read_text().splitlines()
    if first.startswith("# @package"):
        first = rest[0]
    assert first.startswith("# "), "the first line is a comment that says what the file is"


@pytest.mark.parametrize("path", sorted(config.CONF.glob("ablation/*.yaml")), ids=lambda p: p.stem)
def test_every_ablation_is_a_whole_question(path):
    checked = check(composed(f"ablation={path.stem}"))
    question = checked.ablation
    assert question is not None
    assert checked.name == path.stem
    assert question.question.endswith("?")
    assert len(question.seeds) >= 3
    for factor, levels in question.factors.items():
        assert question.baseline[factor] in levels
        for level in levels:
            check(composed(f"ablation={path.stem}", f"{factor}={written(level)}"))
