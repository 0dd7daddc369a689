import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from made_runs import SCORES, make_ablation, make_run
from paribus.report import run as report
from paribus.report.comparison import compare
from paribus.report.figures import levels_figure, narrow_levels_figure, short
from paribus.report.markdown import markdown
from paribus.report.sections import sections
from paribus.report.sentences import answer, failures, notes
from paribus.report.statistics import seeds_needed
from paribus.report.table import table_csv, table_tex
from paribus.results import find_runs

ROOT = Path(__file__).parents[1]

WHOLE = """
Does normalization help?
Wu and He 2018

                  test/accuracy  std   difference
backbone.norm  n              %    %       points        p  verdict
───────────────────────────────────────────────────────────────────────────────
none           3     62.0 ± 5.0  2.0  -29.0 ± 2.5  < 0.001  worse
batch          3     91.0 ± 2.5  1.0                        baseline
group          3     91.0 ± 3.3  1.3   +0.0 ± 2.2    1.000  no difference shown

n: seeds. ±: 95 % t interval over seeds. Difference to batch, paired by seed, in
percentage points; higher is better. p: paired t test, Holm-corrected for 2
comparisons.

9 runs: 9 done.

Report: runs/norm/report/report.html"""

PARTIAL = """
Does normalization help?
Wu and He 2018

                  test/accuracy  std   difference
backbone.norm  n              %    %       points      p  verdict
─────────────────────────────────────────────────────────────────────────────
none           3     62.0 ± 5.0  2.0  -29.5 ± 6.4  0.022  worse
batch          2     90.5 ± 6.4  0.7                      baseline
group          3     91.0 ± 3.3  1.3   -0.3 ± 9.5  0.795  no difference shown
layer          1           90.0              +0.0         not tested
instance       2     80.5 ± 6.4  0.7        -10.0         not tested

n: seeds. ±: 95 % t interval over seeds. Difference to batch, paired by seed, in
percentage points; higher is better. p: paired t test, Holm-corrected for 2
comparisons.

15 runs: 11 done, 2 failed, 2 missing. The verdicts may change when the rest is
done.
batch lacks seed 2 (missing).
layer lacks seed 1, 2 (failed).
instance lacks seed 2 (missing).
One seed gives no interval and no test: layer.
instance differs from batch alike in every seed: no spread for a t test.
failed: backbone.norm=layer,seed=1: RuntimeError: out of [red]memory[/]
failed: backbone.norm=layer,seed=2: RuntimeError: out of [red]memory[/]

Report: runs/norm/report/report.html"""

MARKDOWN = """\
# Does normalization help?

Source of the question: Wu and He 2018

Worse than batch: none (-29.0). No difference to batch shown: group (+0.0). The best mean: batch, 91.0 ± 2.5 %.

| backbone.norm | n | test/accuracy % | std % | difference points | p | verdict |
| :-- | --: | --: | --: | --: | --: | :-- |
| none | 3 | 62.0 ± 5.0 | 2.0 | -29.0 ± 2.5 | < 0.001 | worse |
| batch | 3 | 91.0 ± 2.5 | 1.0 |  |  | baseline |
| group | 3 | 91.0 ± 3.3 | 1.3 | +0.0 ± 2.2 | 1.000 | no difference shown |

n: seeds. ±: 95 % t interval over seeds. Difference to batch, paired by seed, in percentage points; \
higher is better. p: paired t test, Holm-corrected for 2 comparisons.

![test/accuracy of every seed, with mean and interval, by level: none, batch, group.](figure.svg)

- 9 runs: 9 done.

## All else equal?

Yes: the resolved configs of the 9 runs differ in backbone.norm, in what follows from it, and in the seed; in \
nothing else that is learned.

## Every seed: test/accuracy, %

| backbone.norm | seed 0 | seed 1 | seed 2 |
| :-- | --: | --: | --: |
| none | 60.0 | 62.0 | 64.0 |
| batch | 90.0 | 91.0 | 92.0 |
| group | 90.5 | 90.0 | 92.5 |

## How it was made

| of the finished runs | value |
| :-- | :-- |
| commit | 0123456789 with changes |
| versions | torch 2.15.0, lightning 2.6.6, timm 1.0.31 |
| device | cpu |
| made | 2025-01-01 |
| training, in all | 4.5 minutes |

```sh
python scripts/train.py ablation=norm
python scripts/report.py ablation=norm
```
"""

TEX = r"""% \usepackage{booktabs}
% Does normalization help?
% n: seeds. $\pm$: 95 \% t interval over seeds. Difference to batch, paired by seed, in percentage
% points; higher is better. p: paired t test, Holm-corrected for 2 comparisons.
\begin{tabular}{@{}lrrrrrl@{}}
\toprule
backbone.norm & n & test/accuracy & std & difference & p & verdict \\
 &  & \% & \% & points &  &  \\
\midrule
none & 3 & 62.0 $\pm$ 5.0 & 2.0 & $-$29.0 $\pm$ 2.5 & $<$ 0.001 & worse \\
batch & 3 & 91.0 $\pm$ 2.5 & 1.0 &  &  & baseline, best mean \\
group\_16 & 3 & 91.0 $\pm$ 3.3 & 1.3 & +0.0 $\pm$ 2.2 & 1.000 & no difference shown \\
\bottomrule
\end{tabular}
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def printed(capsys, folder, **arguments):
    report.run(folder=folder, **arguments)
    return "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())


def script(*arguments):
    program = [sys.executable, str(ROOT / "scripts/report.py"), *arguments]
    return subprocess.run(program, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})


def test_the_whole_report_on_the_terminal(here, capsys):
    assert printed(capsys, make_ablation(Path("runs/norm"))) == WHOLE


def test_a_partial_report_says_what_it_lacks(here, capsys):
    scores = SCORES | {"batch": [0.9, 0.91], "layer": [0.9], "instance": [0.8, 0.81]}
    root = make_ablation(Path("runs/norm"), scores)
    error = {"type": "RuntimeError", "message": "out of [red]memory[/]\nmore", "traceback": "..."}
    config = find_runs(root)[0].config | {"backbone": {"norm": "layer"}}
    for seed in (1, 2):
        make_run(
            root,
            seed=seed,
            config=config | {"seed": seed},
            factors={"backbone.norm": "layer"},
            status="failed",
            error=error,
        )
    assert printed(capsys, root) == PARTIAL


def test_of_many_failures_five_are_shown(tmp_path):
    root = make_ablation(
        tmp_path / "norm", {"batch": [0.5] * 9}, status="failed", error={"type": "E", "message": ""}
    )
    comparison = compare(find_runs(root))
    failed = [line for line in notes(comparison) if line.startswith("failed")]
    assert failed[0] == "failed: backbone.norm=batch,seed=0: E: no message"
    assert (len(failed), failed[-1]) == (6, "failed: and 4 more.")
    assert len(failures(comparison, most=None)) == 9


def test_with_one_seed_it_says_that_there_is_no_interval(here, capsys):
    text = printed(capsys, make_ablation(Path("runs/norm"), {"none": [0.5], "batch": [0.75]}))
    assert "One seed gives no interval and no test: none, batch." in text
    assert "not tested" in text
    assert "± " not in text.replace("±: 95", "")
    assert "Holm" not in text


def test_levels_in_brackets_are_printed_as_they_are(here, capsys):
    node = {
        "factors": {"model.layers": [["relu", "pool"]]},
        "seeds": [0],
        "baseline": {"model.layers": ["relu"]},
    }
    factors = {"model.layers": ["relu", "pool"]}
    make_run(
        Path("runs/x"), seed=0, config={"ablation": node}, factors=factors, metrics={"test/accuracy": 0.5}
    )
    assert "\n[relu, pool]  1          50.00" in printed(capsys, "runs/x")


def test_while_nothing_is_finished_there_is_a_table_and_no_picture(here, capsys):
    root = make_ablation(Path("runs/norm"), status="running")
    text = printed(capsys, root)
    assert "9 runs: 9 running." in text
    assert "No run is finished yet: no picture of the levels." in text
    assert sorted(os.listdir(root / "report")) == ["report.html", "report.md", "table.csv", "table.tex"]
    assert "batch" in text


def test_markdown(tmp_path):
    versions = {"torch": "2.15.0", "lightning": "2.6.6", "timm": "1.0.31"}
    more = {"device": "cpu", "seconds": 30, "commit": "0123456789abc", "dirty": True, "versions": versions}
    more |= {"command": "python scripts/train.py ablation=norm"}
    comparison = compare(find_runs(make_ablation(tmp_path / "norm", **more)))
    parts = sections(comparison, report.pictures(comparison), "python scripts/report.py ablation=norm")
    assert markdown(comparison.title, comparison.source, parts) == MARKDOWN


def test_latex(tmp_path):
    scores = {"none": SCORES["none"], "batch": SCORES["batch"], "group_16": SCORES["group"]}
    assert table_tex(compare(find_runs(make_ablation(tmp_path / "norm", scores)))) == TEX


def test_the_answer_in_words(tmp_path):
    found = compare(find_runs(make_ablation(tmp_path / "norm")))
    assert answer(found) == [
        "Worse than batch: none (-29.0).",
        "No difference to batch shown: group (+0.0).",
        "The best mean: batch, 91.0 ± 2.5 %.",
    ]
    scores = {
        f"level {i}": [score + 0.1 * i + 0.01 * seed * i for seed, score in enumerate([0.1, 0.11, 0.12])]
        for i in range(1, 7)
    }
    found = compare(find_runs(make_ablation(tmp_path / "more", scores | {"batch": [0.1, 0.11, 0.12]})))
    assert answer(found)[0] == "Better than batch: 6 of 6 levels."


def test_csv_has_every_number_in_full(tmp_path):
    comparison = compare(find_runs(make_ablation(tmp_path / "norm")))
    none, batch, group = csv.DictReader(io.StringIO(table_csv(comparison)))
    level = comparison.levels[0]
    assert none["backbone.norm"] == "none"
    assert none["verdict"] == "worse"
    assert none["n"] == none["pairs"] == "3"
    assert float(none["mean"]) == level.summary.mean
    assert float(none["high"]) == level.summary.mean + level.summary.half
    assert float(none["difference_low"]) == level.paired.difference - level.paired.half
    assert (float(none["p"]), float(none["p_holm"])) == (level.paired.p, level.p)
    assert none["p_sign_flip"] == "0.25"
    assert [none[f"seed {seed}"] for seed in range(3)] == ["0.6", "0.62", "0.64"]
    assert batch["difference"] == batch["p"] == ""
    assert batch["verdict"] == "baseline"
    assert group["verdict"] == "no difference shown"


def test_the_files_go_where_they_are_wanted_and_are_the_same_each_time(here):
    root = make_ablation(Path("runs/norm"))
    names = ["figure.png", "figure.svg", "report.html", "report.md", "table.csv", "table.tex"]
    assert report.run(folder=root) == root / "report"
    assert report.run(folder=root, output="elsewhere/deep") == Path("elsewhere/deep")
    for name in names:
        assert (root / "report" / name).read_bytes() == Path("elsewhere/deep", name).read_bytes()
    again = script("ablation=norm", "output=again")  # another process, with other hashes
    assert again.returncode == 0, again.stderr
    for name in names:
        assert (root / "report" / name).read_bytes() == Path("again", name).read_bytes(), name
    assert sorted(os.listdir(root / "report")) == names


def test_the_picture_shows_every_seed_and_the_words(tmp_path):
    comparison = compare(find_runs(make_ablation(tmp_path / "norm", SCORES | {"layer": []})))
    figure = levels_figure(comparison)
    (axes,) = figure.axes
    dots = sorted(float(x) for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata())
    assert dots == pytest.approx(sorted(100 * value for scores in SCORES.values() for value in scores))
    means = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    assert means == pytest.approx([62, 91, 91])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["none", "batch", "group", "layer"]
    words = [text.get_text() for text in axes.texts]
    assert words == [
        "62.0 ± 5.0", "worse", "91.0 ± 2.5", "baseline",
        "91.0 ± 3.3", "no difference shown", "no finished run", "",
    ]  # fmt: skip
    assert axes.get_xlabel() == "test/accuracy, %"
    # Nothing is cut off at the edges of the page.
    page, renderer = figure.bbox, FigureCanvasAgg(figure).get_renderer()
    for text in [*axes.texts, *figure.texts, *axes.get_yticklabels()]:
        box = text.get_window_extent(renderer)
        assert page.x0 <= box.x0 < box.x1 <= page.x1 or not text.get_text(), text
        assert page.y0 <= box.y0 < box.y1 <= page.y1 or not text.get_text(), text


def test_no_label_is_cut_off_however_long(tmp_path):
    scores = SCORES | {"a level whose name is longer than a page is broad, and goes on": [0.5, 0.6]}
    comparison = compare(find_runs(make_ablation(tmp_path / "norm", scores)))
    for figure in (levels_figure(comparison), narrow_levels_figure(comparison)):
        (axes,) = figure.axes
        page, renderer = figure.bbox, FigureCanvasAgg(figure).get_renderer()
        texts = [*axes.texts, *axes.get_yticklabels()]
        assert sum(text.get_text().startswith("a level whose name") for text in texts) == 1
        for text in texts:
            box = text.get_window_extent(renderer)
            assert page.x0 <= box.x0 < box.x1 <= page.x1 or not text.get_text(), text


def test_percentages_end_at_a_hundred(tmp_path):
    comparison = compare(
        find_runs(make_ablation(tmp_path / "norm", {"batch": [0.99, 1.0, 0.93], "group": [1.0, 1.0, 0.9]}))
    )
    assert comparison.levels[1].summary.mean + comparison.levels[1].summary.half > 1
    assert 100 < levels_figure(comparison).axes[0].get_xlim()[1] < 101


def test_a_folder_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    make_ablation(tmp_path / "normalization")
    (tmp_path / "depth").mkdir()
    with pytest.raises(
        ValueError, match=r"normalisation does not exist; did you mean .*normalization\? In .*: depth, norm"
    ):
        report.find_folder(name="normalisation", root=tmp_path)
    with pytest.raises(
        ValueError, match=r"say `ablation=<name>` or `runs=<folder>`\. In .* there are: depth, normal"
    ):
        report.find_folder(root=tmp_path)
    with pytest.raises(ValueError, match="there are no runs in"):
        report.find_folder(name="a", root=tmp_path / "no")
    with pytest.raises(ValueError, match="holds no runs"):
        report.run(folder=tmp_path / "depth")
    assert report.find_folder(runs=tmp_path / "depth") == report.find_folder(name="depth", root=tmp_path)


def test_the_command(here):
    make_ablation(Path("runs/norm"))
    done = script("ablation=norm")
    assert (done.returncode, done.stderr) == (0, "")
    assert "group          3     91.0 ± 3.3  1.3   +0.0 ± 2.2    1.000  no difference shown" in done.stdout
    assert done.stdout.endswith("Report: runs/norm/report/report.html\n")
    assert sorted(os.listdir()) == ["runs"]  # no folders of Hydra's
    loss = script("runs=runs/norm", "metric=test/loss", "output=loss")
    assert "lower is better" in loss.stdout
    assert Path("loss/table.csv").exists()


def test_the_commands_errors_are_one_message(here):
    make_ablation(Path("runs/norm"))
    for arguments, message in (
        (["ablation=nrm"], "runs/nrm does not exist; did you mean runs/norm?"),
        (["ablation=norm", "metric=test/acuracy"], "did you mean `metric=test/accuracy`?"),
        (
            ["metric=test/loss"],
            "metric=test/loss: of which runs? Say `ablation=<name>` or `runs=<folder>` too",
        ),
        (["ablation=norm", "runs=runs"], "say `ablation=<name>` or `runs=<folder>`. In runs there are: norm"),
        (["root=empty"], "say `ablation=<name>` or `runs=<folder>`; there are no runs in empty yet"),
        (["rus=x"], "rus"),
    ):
        failed = script(*arguments)
        assert failed.returncode == 1
        assert message in failed.stderr
        assert "Traceback" not in failed.stderr


def test_the_command_needs_no_torch(here):
    make_ablation(Path("runs/norm"))
    heavy = ("torch", "lightning", "torchvision", "timm", "scipy.stats", "matplotlib.pyplot")
    code = (
        f"import sys, runpy; sys.argv[1:] = ['ablation=norm']; sys.path.insert(0, '');"
        f"runpy.run_path({str(ROOT / 'scripts/report.py')!r}, run_name='__main__');"
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]", run.stderr


def test_help_names_the_question():
    assert "ablation=normalization" in script("--help").stdout


def test_what_is_not_shown_says_how_many_seeds_would_show_it(tmp_path):
    scores = {"batch": [0.90, 0.91, 0.92], "group": [0.91, 0.905, 0.93]}
    found = compare(find_runs(make_ablation(tmp_path / "norm", scores)))
    (said,) = (note for note in notes(found) if "would show" in note)
    assert said == "group: 26 seeds would show a difference of +0.5, if it is one, four times in five."
    assert seeds_needed(0.005, 0.015 / 3**0.5) == 26


def test_several_factors_are_told_apart_and_together(tmp_path):
    node = {
        "factors": {"backbone.depth": [20, 56], "backbone.shortcut": ["none", "A"]},
        "seeds": [0, 1, 2],
        "metric": "test/accuracy",
        "baseline": {"backbone.depth": 20, "backbone.shortcut": "none"},
    }
    score = {(20, "none"): 0.7, (56, "none"): 0.3, (20, "A"): 0.75, (56, "A"): 0.8}
    for (depth, shortcut), value in score.items():
        for seed in range(3):
            make_run(
                tmp_path, seed=seed, metrics={"test/accuracy": value + 0.001 * seed * (depth == 56)},
                config={"backbone": {"depth": depth, "shortcut": shortcut}, "ablation": node},
                factors={"backbone.depth": depth, "backbone.shortcut": shortcut},
            )  # fmt: skip
    said = "\n".join(notes(compare(find_runs(tmp_path))))
    assert "depth 56 against 20, over the other factors: -17.40 ± 0.25, p < 0.001." in said
    assert "depth 56 with shortcut A: +45.00 beyond what the two add up to." in said
    assert "p of these 3 effects: paired t tests, Holm-corrected." in said


def test_long_labels_that_begin_alike_are_told_apart():
    assert short(["batch", "group"], 4) == ["bat…", "gro…"]
    runs = [f"runs/a_long_folder/{name}" for name in ("batch", "group")]
    assert short(runs, 10) == ["…der/batch", "…der/group"]
    assert short(["same", "same"], 3) == ["sa…", "sa…"]
