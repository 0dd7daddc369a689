"""Two and three processes give the numbers of one."""

import socket
import subprocess
import sys

import pytest
import torch

from command_line import ROOT, SMALL, environment, script, succeeded
from composing import composed
from paribus import evaluate
from paribus.results import Run, curves, read_json
from small_data import mask_folders
from test_train import TASKS
from together import together, trained

STEPS = [*SMALL, "backbone.norm=group", "trainer.log_every=1"]
FSDP = "trainer.strategy=fsdp"


def losses(run: Run) -> list[float]:
    return [value for _, _, value in curves(run)["train/loss"]]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def fewer(test: int) -> list[str]:
    """As many samples to judge."""
    return [f"data.reader.lengths={{train: 48, val: 5, test: {test}}}", "trainer.max_epochs=1"]


def test_two_processes_equal_one_however_they_share_the_work(tmp_path):
    accumulated = [*STEPS, "trainer.accumulate=2", "trainer.gradient_clip=0.5", "trainer.ema=0.9"]
    batch_norm = [*STEPS[:-2], "trainer.log_every=1"]
    jobs = {
        "ddp": [*STEPS, "test=false"],
        "static": [*STEPS, "trainer.static_graph=true", "trainer.gradient_as_bucket_view=true", "test=false"],
        "fsdp": [*accumulated, FSDP],
        "sync": [*batch_norm, "backbone.norm=sync_batch", "test=false"],
        "norm": [*batch_norm, "backbone.norm=batch", "trainer.ema=0.5", "test=false"],
        "alone": [*STEPS, *fewer(1)],
    }
    several = together(2, jobs, tmp_path)
    one = trained(
        {
            "one/ddp": jobs["ddp"],
            "one/fsdp": accumulated,
            "one/sync": [*batch_norm, "backbone.norm=batch", "test=false"],
            "one/alone": [*STEPS, *fewer(1)],
        },
        tmp_path,
    )
    assert several["ddp"].result["processes"] == 2
    # What only changes how gradients travel changes no bit.
    assert losses(several["static"]) == losses(several["ddp"])
    assert several["static"].metrics == several["ddp"].metrics
    for name in ("ddp", "fsdp", "sync", "alone"):
        assert losses(several[name]) == pytest.approx(losses(one[f"one/{name}"]), rel=1e-4), name
        assert several[name].metrics == pytest.approx(one[f"one/{name}"].metrics, rel=1e-3), name
    # What is kept of shares is whole: plain tensors of the same names, which one process goes on with.
    kept, alone = weights(several["fsdp"]), weights(one["one/fsdp"])
    assert {name: t.shape for name, t in kept.items()} == {name: t.shape for name, t in alone.items()}
    assert all(type(t) is torch.Tensor for t in kept.values())
    for name, tensor in alone.items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-3, atol=1e-4)
    again = evaluate.run(composed(f"run='{several['fsdp'].path}'", root="evaluate"))
    assert again == pytest.approx({n: several["fsdp"].metrics[n] for n in again}, rel=1e-6)
    # Statistics of batch norms differ by process, and yet every validation judged the network that is kept.
    best = several["norm"].result["best_epoch"]
    during = {name: points[best][2] for name, points in curves(several["norm"]).items() if name[:4] == "val/"}
    after = {name: several["norm"].metrics[name] for name in during}
    assert after == pytest.approx(during, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_sets_shorter_than_the_processes_are_judged_as_by_one(tmp_path, processes):
    batch = "data.batch_size=12"
    jobs = {kind: [*STEPS, *TASKS[kind], *fewer(1), batch] for kind in TASKS}
    jobs |= {f"{kind}_2": [*STEPS, *TASKS[kind], *fewer(2), batch] for kind in TASKS}
    several = together(processes, jobs, tmp_path, timeout=400)
    for name, run in several.items():
        again = evaluate.run(composed(f"run='{run.path}'", "batch_size=1", root="evaluate"))
        found = {n: float("nan") if run.metrics[n] is None else run.metrics[n] for n in again}
        assert again == pytest.approx(found, rel=1e-5, nan_ok=True), name
        images = sorted(run.path.glob("images_test.*"))
        assert [path.suffix for path in images] == {"label": [".csv"], "labels": []}.get(
            name.split("_")[0], [".npz"]
        )


@pytest.mark.slow
def test_three_processes_equal_one(tmp_path):
    batch = [*SMALL[:1], *SMALL[2:], "data.batch_size=12", "trainer.log_every=1"]
    jobs = {
        "sync": [*batch, "backbone.norm=sync_batch"],
        "timm": [
            *batch[:1],
            *batch[2:],
            "backbone=timm",
            "backbone.name=test_resnet",
            "backbone.norm=sync_batch",
        ],
        "fsdp": [*batch, "backbone.norm=group", FSDP],
    }
    several = together(3, jobs, tmp_path)
    alone = {name: [o.replace("sync_batch", "batch") for o in job if o != FSDP] for name, job in jobs.items()}
    one = trained({f"one/{name}": job for name, job in alone.items()}, tmp_path)
    for name in jobs:
        assert losses(several[name]) == pytest.approx(losses(one[f"one/{name}"]), rel=1e-3), name
        assert several[name].metrics == pytest.approx(one[f"one/{name}"].metrics, rel=1e-2), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mask", "boxes"])
def test_shares_of_segmenters_and_detectors_train_as_the_whole(tmp_path, kind):
    job = [*STEPS, *TASKS[kind], "task.head_first=2"]
    several = together(2, {"fsdp": [*job, FSDP], "ddp": job}, tmp_path)
    assert losses(several["fsdp"]) == pytest.approx(losses(several["ddp"]), rel=1e-4)
    found, wanted = (
        {name: float("nan") if value is None else value for name, value in several[key].metrics.items()}
        for key in ("fsdp", "ddp")
    )
    assert found == pytest.approx(wanted, rel=1e-2, abs=1e-3, nan_ok=True)  # a pixel more or less


@pytest.mark.slow
def test_shares_go_on_where_they_were(tmp_path):
    job = [*STEPS, FSDP, "trainer.ema=0.9", "optimizer=adamw", "scheduler=constant", "scheduler.warmup=0"]
    whole = together(2, {"whole": job}, tmp_path)["whole"]
    together(2, {"parted": [*job, "trainer.max_epochs=1"]}, tmp_path)
    config = tmp_path / "parted" / "config.yaml"  # as if it had been stopped after the first epoch
    config.write_text((tmp_path / "whole" / "config.yaml").read_text())
    result = tmp_path / "parted" / "result.json"
    result.write_text(result.read_text().replace('"done"', '"interrupted"', 1))
    parted = together(2, {"parted": job}, tmp_path)["parted"]
    assert losses(parted)[6:] == losses(whole)[6:]
    for name, tensor in weights(whole).items():
        assert torch.equal(weights(parted)[name], tensor), name


@pytest.mark.slow
def test_two_nodes_that_torchrun_starts_equal_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
    torchrun += [
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        str(ROOT / "scripts" / "train.py"),
    ]
    torchrun += [*STEPS, "name=two", "trainer=ddp_cpu", "trainer.devices=1", "trainer.num_nodes=2"]
    settings = environment(tmp_path)
    for _ in range(2):  # and a second time: what is done is known to every node
        nodes = [
            subprocess.Popen(
                torchrun,
                cwd=tmp_path,
                env=settings,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            for _ in range(2)
        ]
        said = [node.communicate(timeout=240)[0] for node in nodes]
        assert not any(node.returncode for node in nodes), "\n".join(said)
    assert sum("done before" in one for one in said) == 1
    (two,) = (Run.read(path) for path in tmp_path.glob("runs/two/*"))
    assert two.result["processes"] == 2
    one = trained({"one": STEPS}, tmp_path)["one"]
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    common = [
        *SMALL,
        "backbone.norm=group",
        "task.head_first=3",
        "trainer.log_every=1",
    ]  # 33 val and 35 test samples: neither divides by 2
    succeeded(script("train", *common, "name=one", cwd=tmp_path))
    succeeded(script("train", *common, "name=two", "trainer=ddp_cpu", cwd=tmp_path))
    (one,), (two,) = ([Run.read(path) for path in tmp_path.glob(f"runs/{name}/*")] for name in ("one", "two"))
    assert two.result["processes"] == 2
    # The same batches, the same gradient but for the order of its sum.
    losses = [[value for _, _, value in curves(run)["train/loss"]] for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert two.metrics == pytest.approx(one.metrics, rel=1e-3)
    # The same weights, judged by two processes and by one: what is counted is equal to the last digit,
    # what is summed but for the last bits of a network's output, which depend on the size of the batch.
    evaluated = succeeded(script("evaluate", f"run={two.path}", cwd=tmp_path))
    assert "test/accuracy" in evaluated.stdout
    again = read_json(two.path / "evaluation_test.json")["metrics"]
    for name, value in again.items():
        counted = "accuracy" in name
        assert value == (two.metrics[name] if counted else pytest.approx(two.metrics[name], rel=1e-6)), name


@pytest.mark.slow
def test_two_processes_judge_masks_of_unequal_sizes_as_one(tmp_path):
    mask_folders(tmp_path / "set", splits=("train",), each=8)
    for each, size in ((5, (24, 32)), (2, (30, 20))):  # 5 images of two sizes
        mask_folders(tmp_path / "set", splits=("val",), each=each, size=size)
    run = ["data=mask_folders", "task=segmentation", "model=unet", "model.decoder_channels=[8]", "name=two"]
    run += [
        "data.reader.root=set",
        "data.reader.classes=[a,b,c]",
        "data.reader.splits={train: train, val: val}",
    ]
    run += ["data.reader.images='{split}/*.png'", "data.reader.masks='{split}annot/*.png'", "test=false"]
    run += ["data.fit=pad", "data.size=[20,28]", "data.judge_at=native", "data.batch_size=4"]
    run += ["data.num_workers=0", "backbone.channels=[8]", "trainer.max_epochs=1", "trainer.progress=false"]
    succeeded(script("train", *run, "trainer=ddp_cpu", cwd=tmp_path))
    (two,) = (Run.read(path) for path in tmp_path.glob("runs/two/*"))
    assert two.result["processes"] == 2
    again = evaluate.run(composed(f"run='{two.path}'", "split=val", "batch_size=5", root="evaluate"))
    assert again == pytest.approx({name: two.metrics[name] for name in again}, rel=1e-6)
    assert (
        sum(read_json(two.path / "evaluation_val.json")["per_class"]["pixels"]) == 3 * 23 * 32 + 2 * 29 * 20
    )
