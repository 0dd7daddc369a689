"""Proposals of a set: searched once, found again by any run, and moved with the image they belong to."""

import json
import logging
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pytest
import torch

from composing import composed
from paribus import evaluate, predict, train
from paribus.config import ConfigError
from paribus.data import proposals as module
from paribus.data.detection import VocDetection
from paribus.data.digit_scenes import DigitScenes
from paribus.data.module import DataModule
from paribus.data.mosaic import mosaic
from paribus.data.proposals import WithProposals, with_proposals
from paribus.data.samples import Sample
from paribus.data.scales import resize_batch
from paribus.data.selective_search import selective_search
from paribus.data.transforms import Transform
from paribus.results import Run
from small_data import save, voc

SEARCH = {"strategy": "single", "side": 64, "smallest": 10, "least": 4.0}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "paribus" / "proposals"


@pytest.fixture
def searched(monkeypatch):
    """The images that have been searched."""
    images = []

    def search(image, **how):
        images.append(image)
        return selective_search(image, **how)

    monkeypatch.setattr(module, "selective_search", search)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # in this process
    return images


def opened(root, split="train", processes=1, search=SEARCH, **more):
    reader = VocDetection(root=str(root), **more)
    part = reader.split(split)
    return with_proposals(reader, part, search, indices=np.arange(len(part)), processes=processes)


# --- kept on disk ----------------------------------------------------------------------------------


def test_every_sample_has_those_of_its_image(tmp_path):
    found = opened(voc(tmp_path / "set"))
    plain = VocDetection(root=str(tmp_path / "set")).split("train")
    assert len(found) == len(plain) == 6
    for i in range(6):
        sample, bare = found[i], plain[i]
        assert sample.id == bare.id
        assert sample.target["boxes"].tolist() == bare.target["boxes"].tolist()
        assert sample.target["proposals"].tolist() == selective_search(bare.image, **SEARCH).tolist()


def test_a_set_is_searched_once(tmp_path, searched, caplog):
    voc(tmp_path / "set")
    with caplog.at_level(logging.INFO, logger="paribus.data.proposals"):
        first = opened(tmp_path / "set")
        assert len(searched) == 6
        again = opened(tmp_path / "set")
    assert [again[i].target["proposals"].tolist() for i in range(6)] == [
        first[i].target["proposals"].tolist() for i in range(6)
    ]
    assert len(searched) == 6
    messages = [record.message for record in caplog.records]
    assert len(messages) == 1
    assert messages[0].startswith("proposals: 6 of 6 images were new")


def test_several_processes_find_what_one_finds(tmp_path, cache):
    voc(tmp_path / "set")
    one = opened(tmp_path / "set")
    expected = [one[i].target["proposals"].tolist() for i in range(6)]
    for file in cache.rglob("*.npy"):
        file.unlink()
    for file in cache.rglob("*.json"):
        file.unlink()
    two = opened(tmp_path / "set", processes=2)
    assert len(list(cache.rglob("*.npy"))) == 6  # written by them, not when they are asked for
    assert [two[i].target["proposals"].tolist() for i in range(6)] == expected


def test_a_changed_image_is_searched_anew_and_no_other(tmp_path, searched):
    voc(tmp_path / "set")
    opened(tmp_path / "set")
    changed = np.full((48, 64, 3), 30, np.uint8)
    changed[10:30, 10:40] = 200
    save(tmp_path / "set" / "JPEGImages" / "train_002.jpg", changed)
    found = opened(tmp_path / "set")
    assert len(searched) == 7
    image = found[2].image
    assert found[2].target["proposals"].tolist() == selective_search(image, **SEARCH).tolist()


def test_another_search_is_another_one(tmp_path, searched, cache):
    voc(tmp_path / "set")
    opened(tmp_path / "set")
    opened(tmp_path / "set", search={**SEARCH, "least": 20.0})
    assert len(searched) == 12
    kept = [json.loads(file.read_text()) for file in cache.glob("*/search.json")]
    assert sorted(how["least"] for how in kept) == [4.0, 20.0]
    assert all(how["strategy"] == "single" and how["scikit-image"] for how in kept)


def test_copies_of_an_image_share_their_proposals(tmp_path, searched):
    voc(tmp_path / "set")
    opened(tmp_path / "set")
    voc(tmp_path / "moved" / "set")
    opened(tmp_path / "moved" / "set")
    assert len(searched) == 6


def test_an_interrupted_search_goes_on(tmp_path, monkeypatch, searched):
    voc(tmp_path / "set")
    whole = module.selective_search

    def interrupted(image, **how):
        if len(searched) == 3:
            raise KeyboardInterrupt
        return whole(image, **how)

    monkeypatch.setattr(module, "selective_search", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opened(tmp_path / "set")
    monkeypatch.setattr(module, "selective_search", whole)
    opened(tmp_path / "set")
    assert len(searched) == 6


def test_what_is_lost_is_searched_when_it_is_asked_for(tmp_path, cache, searched):
    found = opened(voc(tmp_path / "set"))
    expected = found[4].target["proposals"].tolist()
    for file in cache.rglob("*.npy"):
        file.unlink()
    assert found[4].target["proposals"].tolist() == expected
    assert len(searched) == 7
    assert len(list(cache.rglob("*.npy"))) == 1


def test_torchs_draws_do_not_depend_on_what_was_searched_before(tmp_path):
    voc(tmp_path / "set")
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        opened(tmp_path / "set")
        draws.append(torch.rand(1).item())
    assert draws[0] == draws[1]


def test_generated_scenes_are_known_by_their_pixels(searched):
    for length in (3, 5):
        reader = DigitScenes(target="boxes", size=48, lengths={"train": length, "val": 1, "test": 1})
        part = reader.split("train")
        found = with_proposals(reader, part, SEARCH, indices=np.arange(length), processes=1)
        assert len(found[length - 1].target["proposals"]) > 1
        assert len(searched) == length


def test_a_part_of_the_training_samples_is_searched_alone(tmp_path, searched):
    voc(tmp_path / "set")
    reader = VocDetection(root=str(tmp_path / "set"))
    data = DataModule(
        reader=reader, batch_size=2, size=(48, 64), mean=[0.5] * 3, std=[0.5] * 3, train_fraction=0.5
    )
    data.search = SEARCH
    data.open("train", "val")
    assert len(searched) == 3 + 6
    targets = next(iter(data.train_dataloader()))[1]
    assert [t["proposals"].shape[1] for t in targets] == [4, 4]
    assert targets[0]["proposals"].dtype == torch.float32
    assert len(searched) == 3 + 6


def test_no_detector_that_takes_proposals_no_search(tmp_path, searched):
    reader = VocDetection(root=str(voc(tmp_path / "set")))
    data = DataModule(reader=reader, batch_size=2, size=(48, 64), mean=[0.5] * 3, std=[0.5] * 3)
    data.open("train")
    assert "proposals" not in next(iter(data.train_dataloader()))[1][0]
    assert not searched


def test_samples_left_out_are_left_out(tmp_path):
    found = opened(voc(tmp_path / "set"))
    fewer = found.without({0, 2})
    assert [fewer[i].id for i in range(4)] == [found[i].id for i in (1, 3, 4, 5)]
    assert fewer[0].target["proposals"].tolist() == found[1].target["proposals"].tolist()
    assert isinstance(fewer, WithProposals)
    assert fewer.problems() == []


# --- moved with the image --------------------------------------------------------------------------


def marked(count=3, size=(60, 80)):
    """Bright rectangles on black; the proposals are the objects and what lies 2 pixels around them."""
    rng, boxes = np.random.default_rng(0), []
    image = np.zeros((*size, 3), np.uint8)
    for i in range(count):
        x, y = 5 + 25 * i, int(rng.integers(5, 30))
        boxes.append([x, y, x + 15, y + 20])
        image[y : y + 20, x : x + 15] = 255
    objects = np.array(boxes, np.float32)
    proposals = np.concatenate([objects, objects + np.array([-2, -2, 2, 2], np.float32)])
    return Sample(
        image, {"boxes": objects, "labels": np.arange(count, dtype=np.int64), "proposals": proposals}, "a"
    )


CHANGES = {
    "flip": [A.HorizontalFlip(p=1)],
    "turn": [A.RandomRotate90(p=1)],
    "safe crop": [A.RandomSizedBBoxSafeCrop(32, 40, p=1)],
    "crop": [A.RandomCrop(40, 50, p=1)],
    "colour": [A.RandomBrightnessContrast(p=1)],
}


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("change", CHANGES)
def test_they_move_as_the_objects_do(change, fit):
    transform = Transform(target="boxes", size=(36, 52), fit=fit, before_resize=CHANGES[change])
    for seed in range(5):
        changed = transform(marked(), seed).target
        assert changed["proposals"].dtype == np.float32
        kept = changed["boxes"][(changed["boxes"][:, 2:] - changed["boxes"][:, :2] >= 1).all(1)]
        for box in kept:
            assert np.abs(changed["proposals"] - box).max(1).min() < 1e-3
        assert (changed["proposals"] >= 0).all()
        assert (changed["proposals"] <= [52, 36, 52, 36]).all()


@pytest.mark.parametrize("change", CHANGES)
def test_they_decide_nothing(change):
    """With and without them the image, the objects and their labels are the same."""
    transform = Transform(target="boxes", size=(36, 52), fit="pad", before_resize=CHANGES[change])
    sample = marked()
    bare = {key: value for key, value in sample.target.items() if key != "proposals"}
    for target in (sample.target, {**sample.target, "proposals": np.zeros((0, 4), np.float32)}):
        for seed in range(5):
            changed = transform(sample._replace(target=target), seed)
            without = transform(sample._replace(target=bare), seed)
            assert np.array_equal(changed.image, without.image)
            assert "proposals" not in without.target
            for key in bare:
                assert changed.target[key].tolist() == without.target[key].tolist()


def test_an_image_without_objects_keeps_its_proposals():
    sample = marked()
    empty = {"boxes": np.zeros((0, 4), np.float32), "labels": np.zeros(0, np.int64)}
    sample = sample._replace(target=empty | {"proposals": sample.target["proposals"]})
    changed = Transform(target="boxes", size=None, before_resize=[A.HorizontalFlip(p=1)])(sample, 0)
    flipped = sample.target["proposals"][:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [80, 0, 80, 0]
    np.testing.assert_allclose(changed.target["proposals"], flipped, atol=1e-3)
    assert changed.target["boxes"].shape == (0, 4)


def test_what_is_cut_off_goes():
    sample = marked()
    half = Transform(target="boxes", size=None, before_resize=[A.Crop(0, 0, 29, 60, p=1)])(sample, 0)
    assert np.ptp(half.target["proposals"][:, [0, 2]]) <= 29
    assert len(half.target["proposals"]) == 3  # the first object, and what is around the first and the second
    assert len(half.target["boxes"]) == 1


def test_what_is_judged_has_none():
    transform = Transform(target="boxes", size=(36, 52), native=True)
    fitted = transform(marked(), None).target
    assert "proposals" not in fitted["judged"]
    assert len(fitted["proposals"]) == 6


def test_a_mosaic_has_those_of_its_four_the_best_first():
    samples = [marked()._replace(id=str(i)) for i in range(4)]
    joined = mosaic(samples, (60, 80), np.random.default_rng(0)).target
    for box in joined["boxes"]:
        assert np.abs(joined["proposals"] - box).max(1).min() < 1e-3
    ordinary = mosaic(
        [s._replace(target={k: v for k, v in s.target.items() if k != "proposals"}) for s in samples],
        (60, 80),
        np.random.default_rng(0),
    ).target
    assert "proposals" not in ordinary
    assert joined["boxes"].tolist() == ordinary["boxes"].tolist()
    only_first = [s._replace(target=s.target | {"proposals": s.target["proposals"][:1]}) for s in samples]
    best = mosaic(only_first, (60, 80), np.random.default_rng(0)).target["proposals"]
    assert joined["proposals"][: len(best)].tolist() == best.tolist()


def test_a_batch_resized_on_its_device_takes_them_along():
    target = {key: torch.from_numpy(value) for key, value in marked().target.items()}
    _, (resized,) = resize_batch(torch.zeros(1, 3, 60, 80), [target], (30, 160))
    factor = torch.tensor([2.0, 0.5, 2.0, 0.5])
    assert torch.equal(resized["proposals"], target["proposals"] * factor)


# --- through the doors -----------------------------------------------------------------------------

TINY = [
    *("data=voc_detection", "task=detection", "model=fast_rcnn", "backbone=convnet", "augmentation=flip"),
    *("backbone.channels=[8,8,8]", "model.pyramid_channels=8", "model.box_channels=16", "model.levels=[8]"),
    *("model.num_proposals=50", "model.search_smallest=10", "model.search_strategy=single"),
    *("data.size=[48,64]", "data.batch_size=3", "data.num_workers=0", "data.reader.classes=[ball,cube]"),
    *("trainer.progress=false", "trainer.threads=1", "name=x", "seed=0", "model.score_thresh=0.001"),
]


def test_fast_rcnn_is_trained_judged_and_applied(tmp_path, searched):
    root = voc(tmp_path / "set")
    train.run(composed(*TINY, f"data.reader.root='{root}'", "trainer.max_epochs=2"), tmp_path / "a")
    metrics = Run.read(tmp_path / "a").metrics
    assert len(searched) == 12  # two splits of six, of which val is test too
    for name in ("val/loss", "test/box", "test/proposal_recall_100", "test/proposal_ar_1000"):
        assert np.isfinite(metrics[name]), name
    assert metrics["test/proposal_recall_100"] > 0.9  # plain rectangles

    judged = evaluate.run(composed(f"run='{tmp_path / 'a'}'", "batch_size=2", root="evaluate"))
    for name, value in metrics.items():
        if name.startswith("test/") and value is not None:
            assert judged[name] == pytest.approx(value, abs=1e-6), name
    assert len(searched) == 12

    output = predict.run(
        composed(f"run='{tmp_path / 'a'}'", f"images='{root / 'JPEGImages'}/val_*'", root="predict")
    )
    boxes = json.loads((output / "predictions.json").read_text())
    files = {
        row["id"]: Path(row["file_name"]).name
        for row in json.loads((output / "images.json").read_text())["images"]
    }
    assert sorted(files.values()) == [f"val_{i:03d}.jpg" for i in range(6)]
    found = json.loads((tmp_path / "a" / "predictions_test.json").read_text())
    rows = lambda of: sorted((r["image_id"], r["category_id"], round(r["score"], 4)) for r in of)  # noqa: E731
    assert rows(boxes) == rows(found)
    assert len(boxes) > 6


def test_a_detector_cannot_be_asked_without_its_proposals(tmp_path):
    from paribus.models.backbones.convnet import ConvNet
    from paribus.models.detection.fast_rcnn import FastRCNN

    model = FastRCNN(backbone=ConvNet(channels=[4, 4]), num_classes=2, pyramid_channels=4, box_channels=4)
    with pytest.raises(ValueError, match=r"images come without: model\.proposals=grid"):
        model.eval()(torch.zeros(1, 3, 32, 32))


def test_a_wrong_kind_of_proposals_is_refused(tmp_path):
    cfg = composed(*TINY, "model.proposals=selective", f"data.reader.root='{tmp_path}'")
    with pytest.raises(ConfigError, match=r"model\.proposals=selective.*'grid', 'selective_search' or 'rpn'"):
        train.run(cfg, tmp_path / "run")


def test_a_large_image_gives_proposals_in_its_own_pixels(tmp_path):
    image = np.full((200, 320, 3), 40, np.uint8)
    image[50:150, 100:180] = (200, 40, 40)
    found = selective_search(cv2.GaussianBlur(image, (0, 0), 1), side=64, smallest=10)
    assert np.abs(found - np.array([100, 50, 180, 150])).max(1).min() <= 10
