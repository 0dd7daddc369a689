"""Segmentation end to end: losses in the log, class weights that reach a run and stay, processes."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from command_line import script, succeeded
from composing import composed
from paribus import evaluate
from paribus.data.frequencies import count
from paribus.data.segmentation import MaskFolders
from paribus.door import quoted
from paribus.restore import restored, run_config
from paribus.results import Run, curves, read_json
from paribus.tasks import Segmentation
from paribus.train import run
from small_data import mask_folders

SMALL = [
    "task=segmentation",
    "model=unet",
    "model.decoder_channels=[8, 8]",
    "backbone.channels=[4, 8]",
    "trainer.max_epochs=2",
    "trainer.progress=false",
    "trainer.log_every=1",
]
SCENES = ["data.reader.lengths={train: 16, val: 5, test: 5}", "data.size=[48, 48]", "data.batch_size=4"]
WEIGHED = ["task.class_weights=median_frequency", "task.boundary_f1=true"]


def files(root) -> list[str]:
    """A set of files with two classes, a rare one and one that does not occur in it."""
    if not root.exists():
        mask_folders(root, each=7)
        for path in root.glob("*annot/*.png"):  # of the third class little is left
            mask = np.array(Image.open(path))
            mask[:20][mask[:20] == 2] = 0
            Image.fromarray(mask).save(path)
    return [
        "data=mask_folders",
        f"data.reader.root={root}",
        "data.reader.images='{split}/*.png'",
        "data.reader.masks='{split}annot/*.png'",
        "data.reader.classes=[a, b, c, d]",
        "data.size=[24, 32]",
        "data.fit=stretch",
        "data.batch_size=2",
        "data.num_workers=0",
    ]


def train(folder, *overrides: str) -> Run:
    run(composed(*SMALL, *overrides), folder, in_sweep=True)
    return Run.read(folder)


def state(folder, which: str = "last") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{which}.ckpt", weights_only=True)["state_dict"]


def expected_weights(root, kind: str) -> torch.Tensor:
    settings = {"images": "{split}/*.png", "masks": "{split}annot/*.png", "classes": ["a", "b", "c", "d"]}
    split = MaskFolders(root=str(root), **settings).split("train")
    return torch.tensor(count(split, 4).weights(kind))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "paribus"


def test_the_parts_of_a_loss_are_in_the_log_and_sum_to_it(tmp_path):
    parts = ["task.loss.dice=2", "task.loss.lovasz=0.5", "task.hardest=0.5"]
    done = train(tmp_path / "run", *SCENES, *parts)
    rows = curves(done)
    for split in ("train", "val"):
        whole, *each = (
            [value for _, _, value in rows[f"{split}/{name}"]]
            for name in ("loss", "cross_entropy", "dice", "lovasz")
        )
        assert whole == pytest.approx(np.sum(each, axis=0), rel=1e-5)
        assert f"{split}/focal" not in rows
    assert {"test/loss", "test/dice", "test/miou", "test/fwiou", "test/accuracy"} <= set(done.metrics)
    assert "test/boundary_f1" not in done.metrics


@pytest.mark.parametrize("kind", ["inverse_frequency", "median_frequency"])
def test_class_weights_are_counted_kept_and_evaluated(tmp_path, cache, kind):
    data = files(tmp_path / "set")
    done = train(tmp_path / "run", *data, f"task.class_weights={kind}", "task.boundary_f1=true")
    weights = expected_weights(tmp_path / "set", kind)
    assert weights[3] == 0
    assert len(set(weights.tolist())) > 2
    for which in ("last", "best"):
        torch.testing.assert_close(state(tmp_path / "run", which)["class_weights"], weights)
    assert len(list((cache / "frequencies").iterdir())) == 1
    (cache / "frequencies").rename(cache / "moved")  # judging counts nothing
    found = evaluate.run(composed(quoted(f"run={tmp_path / 'run'}"), root="evaluate"))
    assert not (cache / "frequencies").exists()
    assert found == {name: value for name, value in done.metrics.items() if name.startswith("test/")}
    assert 0 <= found["test/boundary_f1"] <= 1
    table = read_json(tmp_path / "run" / "evaluation_test.json")["per_class"]
    assert list(table) == ["class", "iou", "accuracy", "precision", "pixels", "boundary_f1"]
    torch.testing.assert_close(restored(*run_config(tmp_path / "run")).task.class_weights, weights)


def test_class_weights_change_what_is_learned(tmp_path, cache):
    data = files(tmp_path / "set")
    learned = {}
    for kind in ("none", "median_frequency"):
        train(tmp_path / kind, *data, f"task.class_weights={kind}", "trainer.max_epochs=1")
        learned[kind] = state(tmp_path / kind)["model.head.weight"]
    assert not torch.equal(*learned.values())


def test_class_weights_are_of_the_whole_set_and_of_every_seed(tmp_path, cache):
    data = [*files(tmp_path / "set"), *WEIGHED, "trainer.max_epochs=1"]
    train(tmp_path / "part", *data, "data.train_fraction=0.5", "seed=1", "trainer.ema=0.9")
    found = state(tmp_path / "part")["class_weights"]
    torch.testing.assert_close(found, expected_weights(tmp_path / "set", "median_frequency"))


def test_a_resumed_run_has_the_weights_it_began_with(tmp_path, cache, monkeypatch):
    data = [*files(tmp_path / "set"), *WEIGHED]
    train(tmp_path / "whole", *data)
    step = Segmentation.training_step

    def stopped(task, batch, index):
        if task.trainer.global_step == 4:
            raise RuntimeError("the machine went off")
        return step(task, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Segmentation, "training_step", stopped)
        with pytest.raises(RuntimeError, match="went off"):
            train(tmp_path / "broken", *data)
    # Whatever the counting says by now: the checkpoint has the last word.
    monkeypatch.setattr("paribus.data.module.Frequencies.weights", lambda *_: [9.0] * 4)
    train(tmp_path / "broken", *data)
    whole, broken = state(tmp_path / "whole"), state(tmp_path / "broken")
    assert all(torch.equal(whole[key], broken[key]) for key in whole)
    assert whole["class_weights"].max() < 9
    assert curves(Run.read(tmp_path / "broken")) == curves(Run.read(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_weigh_and_judge_as_one(tmp_path, cache):
    arguments = [*SMALL, *files(tmp_path / "set"), *WEIGHED, "backbone.norm=group", "model.norm=group"]
    arguments.append("trainer.max_epochs=1")
    alone = train(tmp_path / "one", *arguments)
    succeeded(
        script("train", *arguments, "name=two", "trainer=ddp_cpu", "trainer.progress=false", cwd=tmp_path)
    )
    (folder,) = tmp_path.glob("runs/two/*")
    two = Run.read(folder)
    assert two.result["processes"] == 2
    assert torch.equal(state(folder)["class_weights"], state(tmp_path / "one")["class_weights"])
    losses = [[value for _, _, value in curves(r)["train/loss"]] for r in (alone, two)]
    assert len(losses[0]) == 3
    # Each process divides by the weights of its own half of the batch.
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
    evaluate.run(composed(quoted(f"run={folder}"), root="evaluate"))
    again = read_json(folder / "evaluation_test.json")["metrics"]
    for name in ("accuracy", "accuracy_macro", "miou", "fwiou", "boundary_f1"):
        assert again[f"test/{name}"] == two.metrics[f"test/{name}"], name
    with open(folder / "confusion_val.csv") as file:
        counts = [row[1:] for row in csv.reader(file)][1:]
    assert np.array(counts, int).sum() == 7 * (24 * 32 - 32)  # the samples of both
