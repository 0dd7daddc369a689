"""What each image of a judged split adds to its metric: exact, by id, the same from any number of processes."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import distributed as dist

from command_line import script, succeeded
from composing import composed
from detections import detection_data
from paribus import evaluate
from paribus.door import quoted
from paribus.judged_images import JudgedImages, labels, of_boxes, pixels
from paribus.metrics import ClassificationMetrics, DetectionMetrics, SegmentationMetrics
from paribus.metrics.matching import IGNORED, matches, overlaps
from paribus.results import Run
from paribus.train import run
from small_data import mask_folders
from test_train import TASKS

SMALL = [
    "data.reader.lengths={train: 16, val: 9, test: 11}",
    "data.batch_size=8",
    "backbone.channels=[4, 8]",
    "trainer.max_epochs=1",
    "trainer.progress=false",
    "data.num_workers=0",
    "name=x",
]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def arrays(path):
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


# --- of a run --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TASKS)
def test_a_run_writes_what_each_image_adds(tmp_path, kind):
    run(composed(*SMALL, *TASKS[kind]), tmp_path / "run", in_sweep=True)
    done = Run.read(tmp_path / "run")
    for split, number in (("val", 9), ("test", 11)):
        table, counts = (tmp_path / "run" / f"images_{split}.{end}" for end in ("csv", "npz"))
        assert table.exists() == (kind == "label")
        assert counts.exists() == (kind in ("mask", "boxes"))
        per_class = done.result["per_class"][split]
        names = [f"{split}/{i:06d}" for i in range(number)]
        if kind == "label":
            found = rows(table)
            assert [row["id"] for row in found] == names
            assert all((row["label"] == row["prediction"]) == (row["correct"] == "1") for row in found)
            assert np.mean([row["correct"] == "1" for row in found]) == done.metrics[f"{split}/accuracy"]
            labels_ = [row["label"] for row in found]
            assert [labels_.count(name) for name in per_class["class"]] == per_class["images"]
        elif kind == "mask":
            found = arrays(counts)
            assert found["ids"].tolist() == names
            assert {found[name].dtype for name in ("hits", "truth", "predicted")} == {np.dtype(np.int32)}
            hits, truth, predicted = (found[name].sum(0) for name in ("hits", "truth", "predicted"))
            assert truth.tolist() == per_class["pixels"]
            assert (found["truth"].sum(1) == 48 * 48).all()
            there = truth + predicted > 0
            miou = np.mean(hits[there] / (truth + predicted - hits)[there])
            assert miou == pytest.approx(done.metrics[f"{split}/miou"], abs=1e-12)
        elif kind == "boxes":
            found = arrays(counts)
            assert found["ids"].tolist() == names
            assert found["objects"].sum(0).tolist() == per_class["objects"]
            assert found["right"].shape == found["passed"].shape == (10, len(found["score"]))


def test_an_evaluation_on_views_keeps_the_plain_one(tmp_path):
    run(composed(*SMALL), tmp_path / "run", in_sweep=True)
    plain = tmp_path / "run" / "images_test.csv"
    written = plain.read_text()
    for more in ([], ["views=flip"]):
        evaluate.run(composed(quoted(f"run={tmp_path / 'run'}"), *more, root="evaluate"))
        assert plain.read_text() == written
    assert len(rows(tmp_path / "run" / "images_test_flip.csv")) == 11


# --- of several processes --------------------------------------------------------------------------

CLASSES = ["a", "b", "c", "d", "e", "f"]
METRICS = {"label": ClassificationMetrics, "mask": SegmentationMetrics, "boxes": DetectionMetrics}


def judge(kind, rank, world, folder):
    """Judges 11 images, their ids in another order than they are, as process ``rank`` of ``world``."""
    draw = torch.Generator().manual_seed(0)
    if kind == "label":
        decisions, targets = torch.randn(11, 6, generator=draw), torch.arange(11) % 6
    elif kind == "mask":
        decisions, targets = torch.randint(0, 6, (2, 11, 5, 7), generator=draw)
    else:
        decisions, targets = detection_data(11, 6, seed=0)
    metric = METRICS[kind](CLASSES)
    task = SimpleNamespace(target=kind, metrics={"test": metric})
    trainer, images = SimpleNamespace(is_global_zero=rank == 0), JudgedImages(folder / kind)
    images.on_test_start(trainer, task)
    mine = range(11)[rank::world]
    for rows_ in (mine[:2], mine[2:]):
        batch = (None, [targets[i] for i in rows_], [f"{(4 * i) % 11}.png" for i in rows_])
        decided = [decisions[i] for i in rows_]
        if kind != "boxes":
            batch, decided = (None, torch.stack(batch[1]), batch[2]), torch.stack(decided)
        metric.update(decided, batch[1])
        images.on_test_batch_end(trainer, task, decided, batch)
    images.on_test_epoch_end(trainer, task)


def one_process_of_many(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for kind in METRICS:
        judge(kind, rank, world, folder)
    dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_any_number_of_processes_writes_what_one_does(world, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    together.mkdir()
    # Fork, because a spawned process imports torch and torchmetrics once more.
    torch.multiprocessing.start_processes(one_process_of_many, (world, together), world, start_method="fork")
    for kind, end in (("label", "csv"), ("mask", "npz"), ("boxes", "npz")):
        judge(kind, 0, 1, alone)
        one, many = (folder / kind / f"images_test.{end}" for folder in (alone, together))
        assert one.read_bytes() == many.read_bytes(), kind
        ids = [row["id"] for row in rows(one)] if end == "csv" else arrays(one)["ids"].tolist()
        assert ids == sorted(f"{i}.png" for i in range(11))


@pytest.mark.slow
def test_two_processes_write_of_labels_what_one_does(tmp_path):
    succeeded(script("train", *SMALL, "trainer=ddp_cpu", cwd=tmp_path))
    (two,) = (Run.read(path) for path in tmp_path.glob("runs/x/*"))
    assert two.result["processes"] == 2
    one = tmp_path / "one"
    evaluate.run(composed(quoted(f"run={two.path}"), quoted(f"output={one}"), root="evaluate"))
    assert (one / "images_test.csv").read_text() == (two.path / "images_test.csv").read_text()
    assert len(rows(one / "images_test.csv")) == 11


@pytest.mark.slow
def test_two_processes_write_of_masks_of_unequal_sizes_what_one_does(tmp_path):
    mask_folders(tmp_path / "set", splits=("train",), each=8)
    for each, size in ((5, (24, 32)), (2, (30, 20))):
        mask_folders(tmp_path / "set", splits=("val",), each=each, size=size)
    of_set = ["data=mask_folders", "data.reader.root=set", "data.reader.classes=[a,b,c]", "test=false"]
    of_set += ["data.reader.splits={train: train, val: val}", "data.reader.images='{split}/*.png'"]
    of_set += ["data.reader.masks='{split}annot/*.png'", "data.fit=pad", "data.size=[20,28]"]
    of_set += ["data.judge_at=native", "data.batch_size=4", "backbone.norm=none", *SMALL[2:]]
    of_set += ["task=segmentation", "model=unet", "model.decoder_channels=[8]", "backbone.channels=[8]"]
    succeeded(script("train", *of_set, "trainer=ddp_cpu", cwd=tmp_path))
    (two,) = (Run.read(path) for path in tmp_path.glob("runs/x/*"))
    assert two.result["processes"] == 2
    one = tmp_path / "one"
    asked = [quoted(f"run={two.path}"), quoted(f"output={one}"), "split=val", "batch_size=5"]
    evaluate.run(composed(*asked, quoted(f"data_root={tmp_path / 'set'}"), root="evaluate"))
    here, there = arrays(one / "images_val.npz"), arrays(two.path / "images_val.npz")
    assert here["ids"].tolist() == there["ids"].tolist()
    assert here["truth"].sum(1).tolist() == [29 * 20] * 2 + [23 * 32] * 3  # the first row is ignored
    for name, counts in here.items():
        if name != "ids":  # a logit's last bits depend on the batch
            assert np.abs(counts.astype(int) - there[name]).max() <= 2, name


@pytest.mark.slow
def test_two_processes_write_of_boxes_what_one_does(tmp_path):
    succeeded(
        script("train", *SMALL, *TASKS["boxes"], "backbone.norm=group", "trainer=ddp_cpu", cwd=tmp_path)
    )
    (two,) = (Run.read(path) for path in tmp_path.glob("runs/x/*"))
    assert two.result["processes"] == 2
    one = tmp_path / "one"
    evaluate.run(composed(quoted(f"run={two.path}"), quoted(f"output={one}"), root="evaluate"))
    here, there = arrays(one / "images_test.npz"), arrays(two.path / "images_test.npz")
    for name, values in here.items():
        if name == "score":
            assert values == pytest.approx(there[name], rel=1e-4)
        else:
            assert values.tolist() == there[name].tolist(), name


# --- what is counted -------------------------------------------------------------------------------


def test_the_prediction_is_the_metrics_own_where_logits_are_equal():
    for classes in (3, 12):
        draw = torch.Generator().manual_seed(classes)
        logits = torch.randint(0, 3, (500, classes), generator=draw).bfloat16()  # most have several largest
        logits[7, 1] = torch.nan
        target = torch.randint(0, classes, (500,), generator=draw)
        metric = ClassificationMetrics([str(c) for c in range(classes)])
        metric.update(logits, target)
        label, found = labels(logits, target).T
        assert torch.equal(label, target.int())
        assert (label == found).double().mean().item() == metric.compute()["accuracy"]
        assert torch.bincount(found, minlength=classes).equal(metric.confusion.sum(0))


def test_pixels_are_counted_as_a_loop_counts_them():
    draw = np.random.default_rng(0)
    target = draw.choice([0, 1, 2, 3, 255], (6, 9, 11))
    target[2] = 255  # nothing of it is judged
    prediction = draw.integers(0, 4, target.shape)
    found = pixels(torch.from_numpy(prediction), torch.from_numpy(target), 4, 255)
    assert (found.shape, found.dtype) == ((6, 3, 4), torch.int32)
    for i in range(6):
        judged = target[i] != 255
        for c in range(4):
            said, there = (prediction[i] == c) & judged, target[i] == c
            assert found[i, :, c].tolist() == [(said & there).sum(), there.sum(), said.sum()]
    metric = SegmentationMetrics(["a", "b", "c", "d"])
    metric.update(torch.from_numpy(prediction), torch.from_numpy(target))
    assert metric.confusion.diagonal().equal(found.sum(0)[0])


def test_nothing_waits_for_the_device():
    # A tensor on the meta device has no values: what needs one fails.
    logits, target = (
        torch.zeros(4, 7, device="meta"),
        torch.zeros(4, dtype=torch.int64, device="meta"),
    )
    assert labels(logits, target).device.type == "meta"
    masks = torch.zeros(4, 8, 8, dtype=torch.int64, device="meta")
    assert pixels(masks, masks, 3, 255).device.type == "meta"


def boxes(images=40, classes=3, **more):
    predictions, targets = detection_data(images, classes, seed=images, **more)
    metric = DetectionMetrics([str(c) for c in range(classes)])
    metric.update(predictions, targets)
    return metric


def test_of_boxes_each_detection_has_its_image_and_its_matches():
    judged = boxes().judged
    ids = np.array([f"{(7 * i) % 40:02d}" for i in range(40)])  # another order than that of the set
    found = of_boxes(judged, ids, 3)
    assert found["ids"].tolist() == sorted(ids)
    assert found["ids"][found["image"]].tolist() == ids[judged.found.images].tolist()
    at_half = matches(judged, overlaps(judged))
    assert found["right"][0].tolist() == (at_half >= 0).tolist()
    assert found["passed"][0].tolist() == (at_half == IGNORED).tolist()
    assert found["passed"].any()
    right = found["right"].sum(1)
    assert right[0] > right[4] > right[9] > 0
    wanted = ~judged.truth.crowd
    assert found["objects"].sum() == wanted.sum()
    first = np.flatnonzero(found["ids"] == ids[0])[0]
    mine = judged.truth.labels[wanted & (judged.truth.images == 0)]
    assert found["objects"][first].tolist() == np.bincount(mine, minlength=3).tolist()


def test_of_no_box_the_arrays_are_empty():
    metric = DetectionMetrics(["a"])
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    metric.update([nothing | {"scores": torch.zeros(0)}], [nothing])
    found = of_boxes(metric.judged, np.array(["x"]), 1)
    assert found["right"].shape == (10, 0)
    assert found["objects"].tolist() == [[0]]
