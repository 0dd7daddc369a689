"""Every benchmark runs at tiny sizes and finds equal results; its bounds are judged by `make bench` and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "scripts" / "benchmarks"
QUICK = {"startup"}  # the others take more than 10 s, most of it imports


@pytest.fixture
def benchmarks(monkeypatch):
    """The folder on the path, as it is for its programs; and none of it left behind."""
    before = {*sys.modules}
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in {*sys.modules} - before:
        if str(FOLDER) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.fixture
def measure(benchmarks):
    import measure

    return measure


@pytest.fixture
def run_all(benchmarks):
    import run_all

    return run_all


def names() -> list:
    left_out = {
        "measure",
        "ours",
        "run_all",
        "many_nodes",
        "gpu",
    }  # many_nodes has no tiny size, gpu its own test
    found = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in left_out)
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in found]


@pytest.mark.parametrize("name", names())
def test_a_benchmark_runs_at_tiny_sizes_and_ends_with_its_claims(name, tmp_path):
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), "--quick"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert len(last) == 4
    assert last[0] in ("QUICK", "PASS")
    assert ":" in last[1]
    assert last[3][:2] in ("<=", ">=")
    float(last[2])


@pytest.mark.slow
def test_the_gpu_program_makes_a_dry_pass_of_every_section(tmp_path):
    output = tmp_path / "found.md"
    done = subprocess.run(
        [sys.executable, str(FOLDER / "gpu.py"), "--quick", "--output", str(output)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        text=True,
        capture_output=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    page = output.read_text()
    sections = ("small_images", "small_steps", "waits", "resnet50", "detection", "seeds", "rate", "speedrun")
    for name in sections:
        assert f"- {name}: done in" in page
    claims = [line for line in page.splitlines() if line.endswith("| QUICK |")]
    assert len(claims) >= 6
    assert "seconds to 94 % of CIFAR-10: not measured, it takes --cifar FOLDER" in page


@pytest.fixture
def gpu(benchmarks, monkeypatch, tmp_path):
    # What the program sets is put back.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("OMP_NUM_THREADS", "NO_ALBUMENTATIONS_UPDATE"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    import gpu

    return gpu


@pytest.mark.slow
def test_a_section_of_the_gpu_program_that_fails_or_does_not_fit_stops_no_other(
    gpu, tmp_path, monkeypatch, capsys
):
    def broken(*_):
        raise RuntimeError("no such kernel")

    def fine(*_):
        gpu.measure.claim("small steps", "idiomatic Lightning", 6.0, ">=5")

    large = gpu.Sizes(False)
    monkeypatch.setattr(gpu, "Sizes", lambda quick: large)
    monkeypatch.setattr(gpu, "SECTIONS", {"first": (broken, 1), "long": (broken, 9999), "last": (fine, 1)})
    output = tmp_path / "found.md"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--minutes", "1", "--output", str(output)])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 1
    printed = capsys.readouterr().out
    assert "FAILED first: no such kernel\nTraceback" in printed
    page = output.read_text()
    assert "- first: FAILED: RuntimeError: no such kernel" in page
    assert "- long: not measured: it takes about 9999 s, and" in page
    assert "| small steps | idiomatic Lightning | 6 | >=5 | PASS |" in page


@pytest.mark.slow
def test_the_gpu_program_names_the_line_that_waits_between_two_rows(gpu, tmp_path, monkeypatch, capsys):
    """What CUDA does in the two modes, done in `normalize` of every step."""
    import torch

    from paribus.data.module import DataModule

    mode, normalize = ["default"], DataModule.normalize

    def waiting(self, images):
        if mode[0] == "warn":
            gpu.warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        if mode[0] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")
        return normalize(self, images)

    monkeypatch.setattr(DataModule, "normalize", waiting)
    monkeypatch.setattr(gpu, "GPU", True)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda word: mode.__setitem__(0, word))
    gpu.waits(gpu.Sizes(True), tmp_path, None)
    printed = capsys.readouterr().out
    assert "told: segmentation waits 1 times in a step 1 at test_benchmarks.py:" in printed
    assert "RuntimeError: called a synchronizing CUDA operation" in printed
    assert "FAIL waits_between_two_rows_of_the_log,_classification:set_sync_debug_mode 1 <=0" in printed
    assert mode == ["default"]


def test_ways_are_taken_in_turn_and_neighbours_compared(measure):
    order = []

    def way(name, values):
        return lambda: (order.append(name), values.pop(0))[1]

    found = measure.in_turn({"a": way("a", [2.0, 30.0, 4.0]), "b": way("b", [1.0, 10.0, 1.0])}, 3)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert (
        measure.ratio(found["a"], found["b"]) == 3.0
    )  # of 2, 3 and 4: the slow round takes part as any other


@pytest.mark.parametrize(
    ("found", "bound", "judged", "said", "code"),
    [
        (5.0, ">=5", True, "PASS", 0),
        (4.99, ">=5", True, "FAIL", 1),
        (1.02, "<=1.02", True, "PASS", 0),
        (float("nan"), "<=1.02", True, "FAIL", 1),
        (4.99, ">=5", False, "QUICK", 0),
    ],
)
def test_a_claim_holds_up_to_its_bound_and_the_exit_code_says_so(
    measure, capsys, found, bound, judged, said, code
):
    measure.claim("a step", "a plain loop", found, bound, judged, why="it waits")
    why = "WHY it waits\n" if said == "FAIL" else ""
    assert capsys.readouterr().out == f"{said} a_step:a_plain_loop {found:.4g} {bound}\n{why}"
    with pytest.raises(SystemExit) as ended:
        measure.end()
    assert ended.value.code == code


def test_all_claims_come_into_one_table_and_what_was_not_measured_is_said(run_all, tmp_path, monkeypatch):
    (tmp_path / "one.py").write_text("print('a small table\\nPASS a_step:a_plain_loop 1.01 <=1.02')")
    (tmp_path / "slow.py").write_text("print('FAIL a_batch:theirs 2 >=3\\nWHY it is the disk')")
    (tmp_path / "two.py").write_text("raise SystemExit('no such package')")
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    assert run_all.programs(["two"]) == [tmp_path / "two.py"]
    results = {path.name: run_all.run(path) for path in run_all.programs([])}
    text = run_all.page(results, "0.1", "1.2")
    assert "| a step | a plain loop | 1.01 | <=1.02 | PASS |" in text
    assert "| a batch | theirs | 2 | >=3 | FAIL: it is the disk |" in text
    assert "| two | ended with code 1 before it measured |  |  | FAIL |" in text
    assert "a small table" in text
    assert "load 0.1 before and 1.2 after" in text
    assert "| on a GPU: 8 seeds at once | one after another | | >=2 | not measured |" in text


@pytest.mark.slow
def test_the_counter_of_waits_notices_what_waits_and_nothing_else(benchmarks):
    import synchronizations

    synchronizations.notices()
