"""An ablation at Weights & Biases: a report of the question, the table and live panels, and a workspace of its runs.

Its runs were made with ``logger=wandb``. Before all that is needed is there, no network is touched.
"""

import importlib.util
import netrc
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from paribus.results import Run, curves, find_runs

if TYPE_CHECKING:
    from paribus.report.comparison import Comparison

HEAD = 7  # bytes of a .wandb file that nothing was written to: its run was killed at once
STEP = "trainer/global_step"  # what W&B's curves go over, see loggers.WandB
MOST_LINES = 100  # that a panel draws; W&B's own bound is 10
LONGEST_TITLE = 128


# Asked by loggers.py too


def field(factor: str, config: Mapping[str, Any]) -> str:
    """The config field of a factor at W&B: ``backbone_norm``, without dots, which W&B takes for nesting. That of a
    config group is ``optimizer_choice``, as ``optimizer`` holds the keys of the option chosen."""
    name = re.sub(r"\W", "_", factor)
    return f"{name}_choice" if isinstance(config.get(name), Mapping) else name


def logged_in() -> bool:
    """Whether W&B would not have to ask who the user is. Nothing is asked, and no network is used."""
    import wandb

    settings = wandb.setup().settings
    if settings.api_key or settings.identity_token_file:
        return True
    file = os.environ.get("NETRC", os.path.expanduser("~/.netrc"))
    try:
        known = netrc.netrc(file).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return bool({urlsplit(settings.base_url).hostname, "api.wandb.ai"} & set(known))


# What must be there


def unsent(runs: Iterable[Run]) -> list[Path]:
    """The folders of W&B's offline runs that ``wandb sync`` has not uploaded yet, a run's own in order of time."""
    files = [file for run in runs for file in sorted(run.path.glob("wandb/offline-run-*/*.wandb"))]
    # With nothing in it the command fails, and passes over the run's later ones.
    held = [file for file in files if file.stat().st_size > HEAD]
    return [file.parent for file in held if not file.with_suffix(".wandb.synced").exists()]


def lacking(runs: Sequence[Run], folder: Path, entity: str | None, project: str | None) -> list[str]:
    """What a dashboard of these runs still needs, a sentence each; found out without network."""
    lacks = []
    if importlib.util.find_spec("wandb_workspaces") is None:
        lacks.append("the package wandb-workspaces: pip install 'paribus[dashboard]'")
    if not runs:
        lacks.append(
            f"runs of {folder} that W&B knows: none was made with logger=wandb, and finished runs are not made anew; "
            "repeat the training command with `logger=wandb name=<another>`"
        )
    if not logged_in():
        lacks.append("a login at W&B: `wandb login`, or its key in WANDB_API_KEY")
    if waiting := unsent(runs):
        options = [("--entity", entity), ("--project", project)]
        given = [word for pair in options if pair[1] for word in pair]
        command = shlex.join(["wandb", "sync", *map(str, [*given, *waiting])])
        lacks.append(f"the upload of what was made offline, {len(waiting)} folder(s):\n    {command}")
    return lacks


# What is made


def panels(wr: Any, comparison: "Comparison", fields: Mapping[str, str]) -> list[Any]:
    """Curves and bars by each factor, losses, judged examples and tables, in rows of two."""
    metric, split = comparison.metric, comparison.metric.split("/")[0]
    logged = {name for run in comparison.runs for name in curves(run)}
    over_steps = re.sub("^test/", "val/", metric)
    losses = [name for name in ("train/loss", "val/loss") if name in logged]
    made: list[Any] = []
    for factor, name in fields.items():
        by = {"groupby": wr.Config(name), "groupby_aggfunc": "mean", "groupby_rangefunc": "minmax"}
        line = {"x": STEP, "title_x": "step", "max_runs_to_show": MOST_LINES, **by}
        bar = {"max_bars_to_show": MOST_LINES, **by}
        if over_steps in logged:
            made.append(wr.LinePlot(title=f"{over_steps} by {factor}", y=[over_steps], **line))
        made.append(wr.BarPlot(title=f"{metric} by {factor}", metrics=[metric], **bar))
        if losses:
            made.append(wr.LinePlot(title=f"{' and '.join(losses)} by {factor}", y=losses, **line))
    keys = [f"{split}/examples", f"{split}_worst/examples"]
    made.append(wr.MediaBrowser(title="Examples, and the worst", media_keys=keys, num_columns=4))
    if any((run.result.get("per_class") or {}).get(split) for run in comparison.runs):
        made.append(wr.WeavePanelSummaryTable(table_name=f"{split}/per_class"))
    for place, panel in enumerate(made):
        panel.layout = wr.Layout(x=12 * (place % 2), y=8 * (place // 2), w=12, h=8)
    return made


def fields_of(comparison: "Comparison") -> dict[str, str]:
    """{factor: its config field at W&B}. What a plain sweep varies, which names no factors, is a field anyway; and
    where nothing is varied the seed is."""
    config, named = comparison.runs[-1].config, {key for run in comparison.runs for key in run.factors}
    fields = {key: field(key, config) if key in named else key for key in comparison.factors}
    return fields or {"seed": "seed"}


def save(comparison: "Comparison", text: str, names: Sequence[str], entity: Any, project: str) -> list[str]:
    """The addresses of the report and of the workspace, made anew, of the runs in the groups ``names``.

    text: Markdown for the report, above its panels.
    """
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    place: Any = {"entity": entity, "project": project}
    fields = fields_of(comparison)
    group = expr.Metric("Group")
    of_group: Any = {"filters": expr.And(group == names[0] if len(names) == 1 else group.isin(list(names)))}
    shown, grouped = ", ".join(names), [f"config.{name}" for name in fields.values()]
    by_field: Any = [expr.Config(name) for name in fields.values()]
    runset = wr.Runset(name=shown, groupby=grouped, **of_group, **place)
    report = wr.Report(
        title=comparison.title[:LONGEST_TITLE],
        description=comparison.source or "",
        blocks=[
            wr.MarkdownBlock(text),
            wr.H2("The runs"),
            wr.PanelGrid(runsets=[runset], panels=panels(wr, comparison, fields)),
        ],
        width="fluid",
        **place,
    )
    workspace = ws.Workspace(
        name=shown,
        sections=[ws.Section(name=comparison.title, panels=panels(wr, comparison, fields), is_open=True)],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=MOST_LINES),
        runset_settings=ws.RunsetSettings(groupby=by_field, **of_group),
        **place,
    )
    # A question mark in a title would end the path of its address.
    return [quote(report.save().url, safe=":/"), workspace.save().url]


def run(
    *, folder: str | Path, metric: str | None = None, entity: str | None = None, project: str | None = None
) -> list[str]:
    """Makes the report and the workspace of the runs in ``folder``; prints and returns their addresses. Each call
    makes new ones: what was written into the earlier ones stays.

    entity, project: where the runs are; by default the user's own, and the runs' own.

    Raises:
        ValueError: something is lacking, see ``lacking``; the metric, the user or the project does not exist.
    """
    from paribus.report.comparison import compare
    from paribus.report.markdown import markdown
    from paribus.report.sections import sections

    folder = Path(folder)
    runs = find_runs(folder)
    if not runs:
        raise ValueError(f"{folder} holds no runs (folders with a config.yaml); train some first")
    known = [run for run in runs if (run.path / "wandb_id").is_file()]
    if lacks := lacking(known, folder, entity, project):
        raise ValueError("\n".join(["a dashboard at W&B needs", *(f"- {each}" for each in lacks)]))
    comparison = compare(runs, metric=metric)
    if absent := len(runs) - len(known):
        print(f"{absent} of {len(runs)} runs were made without logger=wandb: in the table alone.")

    import wandb

    wandb.teardown()  # or what follows is not heard: the login has been looked up
    wandb.setup(settings=wandb.Settings(show_info=False))  # it says the addresses too, with the question mark
    try:
        own = wandb.Api().default_entity
    except wandb.Error as error:
        raise ValueError(f"W&B: {error}") from error
    held = known[-1].config.get("logger") or {}
    entity, project = entity or held.get("entity") or own, project or held.get("project") or "paribus"
    # Our own page, without its title, which is the report's, and the pictures, which the panels stand for.
    command = f"python scripts/report.py {shlex.quote(f'runs={folder}')}"
    page = markdown(comparison.title, comparison.source, sections(comparison, {}, command))
    text, names = page.partition("\n")[2].strip(), sorted({run.name for run in known})
    addresses = save(comparison, text, names, entity, project)
    print(f"Report:    {addresses[0]}\nWorkspace: {addresses[1]}")
    return addresses
