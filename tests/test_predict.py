import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning import Callback, Trainer
from PIL import Image

from composing import composed
from paribus import evaluate, predict, restore, train
from paribus.config import ConfigError
from paribus.data.digit_scenes import DigitScenes
from paribus.examples import Examples
from paribus.metrics.matching import wrong_and_missed
from paribus.pictures import sure
from paribus.results import read_json
from paribus.trainer import shared_settings
from paribus.windows import slide

LENGTHS = "data.reader.lengths={train: 96, val: 8, test: 12}"
COMMON = ["data.num_workers=0", "trainer.progress=false", "trainer.threads=1", "name=x"]
KINDS = {
    "label": [
        "data.reader.lengths={train: 320, val: 8, test: 12}",
        "data.batch_size=16",
        "trainer.max_epochs=3",
    ],
    "labels": ["task=multilabel", "data.size=[64,64]", LENGTHS, "data.batch_size=16", "trainer.max_epochs=2"],
    "mask": [
        *["task=segmentation", "model=unet", "model.decoder_channels=[16,16,16]", "data.size=[64,64]"],
        *[
            "data.reader.digits=[1,1]",
            "data.reader.scale=[0.7,0.95]",
            "data.batch_size=8",
            "scheduler=constant",
        ],
        *["data.reader.lengths={train: 128, val: 8, test: 12}", "trainer.max_epochs=6"],
    ],
    "boxes": [
        *["task=detection", "model=retinanet", "model.pyramid_channels=32", "model.score_thresh=0.001"],
        *["data.size=[64,64]", "data.reader.lengths={train: 32, val: 8, test: 12}", "data.batch_size=8"],
        *["trainer.max_epochs=1", "model.detections_per_img=10"],
    ],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a run folder of a kind of target, its test images as files), each made once."""
    made: dict[str, tuple[Path, Path]] = {}

    def get(kind: str) -> tuple[Path, Path]:
        if kind not in made:
            root = tmp_path_factory.mktemp(kind)
            train.run(composed(*COMMON, *KINDS[kind]), root / "run")
            reader = loaded(root / "run")[0].data.reader
            (root / "images").mkdir()
            for i in range(12):
                Image.fromarray(reader.split("test")[i].image).save(root / "images" / f"{i:06d}.png")
            made[kind] = root / "run", root / "images"
        return made[kind]

    return get


def loaded(run: Path):
    folder, config = restore.run_config(run)
    restore.one_device(config, "cpu")
    return restore.restored(folder, config), config


def predicted(run: Path, images: object, *more: str) -> Path:
    return predict.run(composed(f"run='{run}'", f"images='{images}'", *more, root="predict"))


class Decisions(Callback):
    """What evaluation decides, sample by sample."""

    def __init__(self):
        self.found: list = []

    def on_test_batch_end(self, trainer, pl_module, outputs, *_):
        self.found += list(outputs)


def evaluated(run: Path, *callbacks: Callback) -> list:
    (parts, config), decisions = loaded(run), Decisions()
    trainer = Trainer(
        **shared_settings(config.trainer),
        logger=False,
        callbacks=[decisions, *callbacks],
        enable_checkpointing=False,
    )
    trainer.test(parts.task, datamodule=parts.data, verbose=False)
    return decisions.found


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_labels_equal_evaluations(trained):
    run, images = trained("label")
    logits = evaluated(run)
    rows = table(predicted(run, images, "batch_size=5") / "predictions.csv")
    assert [Path(row["file"]) for row in rows] == sorted(images.iterdir())
    assert list(rows[0])[:5] == ["file", "class", "probability", "class_2", "probability_2"]
    assert list(rows[0])[-1] == "probability_5"
    for row, row_logits in zip(rows, logits, strict=True):
        best = row_logits.softmax(0).topk(5)
        columns = ["class", *(f"class_{i}" for i in range(2, 6))]
        assert [row[column] for column in columns] == [str(int(i)) for i in best.indices]
        assert float(row["probability"]) == pytest.approx(float(best.values[0]), abs=2e-6)
    assert len({row["class"] for row in rows}) > 1  # it says more than one thing
    split = loaded(run)[0].data.reader.split("test")
    truth = [split[i].target for i in range(12)]
    right = np.mean([row["class"] == str(label) for row, label in zip(rows, truth, strict=True)])
    metrics = evaluate.run(composed(f"run='{run}'", root="evaluate"))
    assert right == pytest.approx(metrics["test/accuracy"])


def test_multilabel_has_a_column_for_each_class(trained):
    run, images = trained("labels")
    logits = evaluated(run)
    rows = table(predicted(run, images) / "predictions.csv")
    assert list(rows[0]) == ["file", *"0123456789"]
    found = np.array([[float(row[c]) for c in "0123456789"] for row in rows])
    assert found == pytest.approx(np.stack([row.sigmoid().numpy() for row in logits]), abs=2e-6)


def test_masks_equal_evaluations_and_keep_the_palette(trained, tmp_path):
    run, images = trained("mask")
    decisions = evaluated(run)
    output = predicted(run, images, f"output={tmp_path / 'out'}")
    assert output == tmp_path / "out"
    masks = [Image.open(path) for path in sorted((output / "masks").iterdir())]
    assert len(masks) == 12
    for mask, decision in zip(masks, decisions, strict=True):
        assert (np.asarray(mask) == decision.numpy()).all()
    assert len(np.unique(np.stack(decisions))) > 1  # it says more than one thing
    assert masks[0].mode == "P"
    palette = DigitScenes(target="mask").palette
    assert masks[0].getpalette()[:33] == [value for color in palette for value in color]
    overlays = sorted(path.name for path in (output / "overlays").iterdir())
    assert overlays == [f"{i:06d}.png" for i in range(12)]


def test_boxes_equal_evaluations(trained):
    run, images = trained("boxes")
    decisions = evaluated(run)
    output = predicted(run, images, "batch_size=3")
    found, listing = read_json(output / "predictions.json"), read_json(output / "images.json")
    assert [Path(image["file_name"]).name for image in listing["images"]] == [
        f"{i:06d}.png" for i in range(12)
    ]
    assert listing["images"][0] | {"file_name": ""} == {"id": 1, "file_name": "", "width": 64, "height": 64}
    assert listing["categories"][0] == {"id": 1, "name": "0"}
    assert sum(len(decision["scores"]) for decision in decisions) == len(found) > 12
    for number, decision in enumerate(decisions, start=1):
        mine = [row for row in found if row["image_id"] == number]
        assert [row["category_id"] - 1 for row in mine] == decision["labels"].tolist()
        assert [row["score"] for row in mine] == pytest.approx(decision["scores"].tolist(), abs=1e-5)
        corners = np.array([row["bbox"] for row in mine]).reshape(-1, 4)
        corners[:, 2:] += corners[:, :2]
        assert corners == pytest.approx(decision["boxes"].numpy(), abs=1e-2)
    assert len(list((output / "overlays").glob("*.jpg"))) == 12


def test_boxes_load_as_coco_results(trained):
    from faster_coco_eval import COCO

    run, images = trained("boxes")
    output = predicted(run, images)
    truth = COCO(read_json(output / "images.json") | {"annotations": []})
    assert len(truth.loadRes(str(output / "predictions.json")).anns) > 0


def test_answers_have_the_size_of_the_file(trained, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    large = DigitScenes(target="mask", size=(130, 200)).split("test")[0].image
    Image.fromarray(large).save(images / "large.jpg")
    Image.fromarray(large[:, :, 0]).save(images / "grey.png")
    output = predicted(trained("mask")[0], images, f"output={tmp_path / 'out'}")
    assert {Image.open(p).size for p in (output / "masks").iterdir()} == {(200, 130)}
    output = predicted(trained("boxes")[0], images, f"output={tmp_path / 'out'}")
    boxes = np.array([row["bbox"] for row in json.loads((output / "predictions.json").read_text())])
    assert boxes[:, 0].max() > 70  # further right than the network's 64 pixels
    assert (boxes[:, :2] + boxes[:, 2:] <= np.array([200, 130]) + 1e-3).all()
    assert Image.open(output / "overlays" / "large.jpg").size == (400, 260)  # magnified


def wide(folder: Path) -> dict[str, np.ndarray]:
    """Two scenes of other sizes than the network's, as files, and their pixels by name."""
    folder.mkdir()
    sizes = {"large": (130, 200), "low": (70, 96)}
    made = {
        name: DigitScenes(target="mask", size=size, digits=(1, 1), scale=(0.9, 0.95)).split("test")[0].image
        for name, size in sizes.items()
    }
    for name, image in made.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    return made


def asked(run: Path):
    """uint8 images, one at a time, to logits."""
    data, task = loaded(run)[0][:2]
    model = torch.inference_mode()(task.model.eval())
    return lambda image: model(data.normalize(torch.from_numpy(image.copy()).permute(2, 0, 1)[None]))


def mask_of(output: Path, name: str) -> np.ndarray:
    return np.asarray(Image.open(output / "masks" / f"{name}.png"))


def test_masks_are_decided_at_the_size_of_the_file(trained, tmp_path):
    images, answer = wide(tmp_path / "images"), asked(trained("mask")[0])
    output = predicted(trained("mask")[0], tmp_path / "images", f"output={tmp_path / 'out'}")
    for name, image in images.items():
        way = (
            cv2.INTER_AREA if name == "large" else cv2.INTER_LINEAR
        )  # which loses less than half of each side
        logits = answer(cv2.resize(image, (64, 64), interpolation=way))
        large = F.interpolate(logits, image.shape[:2], mode="bilinear")
        assert (mask_of(output, name) == large.argmax(1)[0].numpy()).mean() > 0.9999
        coarse = F.interpolate(logits.argmax(1)[None].float(), image.shape[:2])  # with its steps
        assert (mask_of(output, name) == coarse[0, 0].numpy()).mean() < 0.9999


def test_large_images_are_answered_in_windows(trained, tmp_path):
    run = trained("mask")[0]
    images, answer = wide(tmp_path / "images"), asked(run)
    output = predicted(
        run, tmp_path / "images", f"output={tmp_path / 'out'}", "resize=native", "window=[64,64]"
    )
    whole = predicted(run, tmp_path / "images", f"output={tmp_path / 'whole'}", "resize=native")
    for name, image in images.items():
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        logits = slide(
            lambda part: answer(part[0].permute(1, 2, 0).numpy()), pixels, window=(64, 64), overlap=0.5
        )
        assert (mask_of(output, name) == logits.argmax(1)[0].numpy()).mean() > 0.9999
        assert (mask_of(whole, name) == answer(image).argmax(1)[0].numpy()).mean() > 0.9999
    assert (mask_of(output, "large") != mask_of(whole, "large")).any()


def test_what_a_crop_cuts_off_is_not_answered(trained, tmp_path):
    shutil.copytree(trained("mask")[0], tmp_path / "run")
    text = (tmp_path / "run" / "config.yaml").read_text()
    (tmp_path / "run" / "config.yaml").write_text(text.replace("fit: stretch", "fit: crop"))
    image = wide(tmp_path / "images")["large"]
    mask = mask_of(predicted(tmp_path / "run", tmp_path / "images"), "large")
    assert (mask[:, :35] == 255).all()
    assert (mask[:, 165:] == 255).all()
    seen = cv2.resize(image[:, 35:165], (64, 64), interpolation=cv2.INTER_AREA)
    logits = F.interpolate(asked(tmp_path / "run")(seen), (130, 130), mode="bilinear")
    assert (mask[:, 35:165] == logits.argmax(1)[0].numpy()).mean() > 0.97  # cut half a pixel apart


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("label", "window=[32,32]", r"window=\[32, 32\]: of masks, and this run answers with label"),
        ("boxes", "resize=native", "resize=native: of masks, and this run answers with boxes"),
        ("mask", "window=[64,64]", r"window=\[64, 64\] holds the whole image, .*resize=native leaves it"),
        ("mask", "overlap=0.5", r"overlap=0\.5 is that of windows"),
        ("mask", "resize=[0,64]", r"resize=\[0, 64\]: \[height, width\] in pixels, or native"),
    ],
)
def test_sizes_and_windows_that_cannot_be(trained, tmp_path, kind, overrides, message):
    run, images = trained(kind)
    with pytest.raises(ConfigError, match=message):
        predicted(run, images, f"output={tmp_path}", overrides)


def test_unreadable_images_are_named_and_the_others_answered(trained, tmp_path):
    run, images = trained("label")
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes((images / f"00000{i}.png").read_bytes())
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(predict.UnreadableError) as caught:
        predicted(run, tmp_path, f"output={tmp_path / 'out'}", "batch_size=2")
    message = str(caught.value)
    assert "1 of 4 images cannot be read" in message
    assert "broken.jpg" in message
    assert [Path(row["file"]).name for row in table(tmp_path / "out" / "predictions.csv")] == [
        "0.png",
        "1.png",
        "2.png",
    ]


def test_only_unreadable_images(trained, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    for kind in ("label", "mask", "boxes"):
        with pytest.raises(predict.UnreadableError, match="1 of 1"):
            predicted(trained(kind)[0], tmp_path)


def test_no_images_and_no_run_are_said(trained, tmp_path):
    run, _ = trained("label")
    with pytest.raises(ConfigError, match="holds no image"):
        predicted(run, tmp_path)
    with pytest.raises(ConfigError, match="no image matches it"):
        predicted(run, tmp_path / "nothing" / "*.png")
    with pytest.raises(ConfigError, match="no such folder"):
        predicted(tmp_path / "norun", tmp_path)


def test_equal_names_in_two_folders_stay_apart(trained, tmp_path):
    run, images = trained("mask")
    for name in ("a/x.png", "b/x.png", "b/deep/x.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes((images / "000000.png").read_bytes())
    output = predicted(run, tmp_path / "in", f"output={tmp_path / 'out'}")
    written = sorted(p.relative_to(output / "masks").as_posix() for p in (output / "masks").rglob("*.png"))
    assert written == ["a/x.png", "b/deep/x.png", "b/x.png"]


def test_names_are_unique():
    assert predict.names([Path("in/a.jpg"), Path("in/b.v2.jpg")]) == ["a", "b.v2"]
    assert predict.names([Path("in/a.jpg"), Path("in/a.png")]) == ["a.jpg", "a.png"]
    assert predict.names([Path("one/a.jpg"), Path("two/a.jpg")]) == ["one/a", "two/a"]


def test_images_are_found_in_natural_order_and_not_in_the_output(tmp_path):
    for name in ("10.png", "2.JPG", ".hidden.png", "notes.txt", "sub/1.png", "out/overlays/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = predict.find_images(str(tmp_path), tmp_path / "out")
    assert [p.relative_to(tmp_path).as_posix() for p in found] == ["2.JPG", "10.png", "sub/1.png"]
    assert predict.find_images(f"{tmp_path}/*.png", tmp_path / "out") == [tmp_path / "10.png"]
    assert predict.find_images(str(tmp_path / "notes.txt"), tmp_path / "out") == [tmp_path / "notes.txt"]


class Kept:
    """A logger that takes examples."""

    def __init__(self):
        self.examples, self.pictures = {}, {}

    def log_examples(self, split, examples, picture, target, classes):
        self.examples[split], self.pictures[split] = examples, picture


@pytest.mark.parametrize("kind", ["label", "labels", "mask", "boxes"])
def test_judging_draws_examples_from_all_over_the_split(trained, tmp_path, kind):
    run, images = trained(kind)
    kept = Kept()
    decisions = evaluated(run, Examples(tmp_path, kept, count=5, named=["flip"]))
    places = [i * len(decisions) // 5 for i in range(5)]
    assert [example.id for example in kept.examples["test"]] == [f"test/{i:06d}" for i in places]
    for i, example in zip(places, kept.examples["test"], strict=True):  # the pixels survive normalizing
        assert (example.image == np.asarray(Image.open(images / f"{i:06d}.png"))).all()
        if kind == "mask":
            assert (example.answer == decisions[i].numpy()).all()
        if kind == "label":
            assert example.answer.argmax() == decisions[i].argmax()
    drawn = np.asarray(Image.open(tmp_path / "figures" / "test_flip_examples.png"))
    assert (drawn == kept.pictures["test"]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_worst_images_are_found_and_drawn(trained, tmp_path, kind):
    run, images = trained(kind)
    kept = Kept()
    decisions = evaluated(run, Examples(tmp_path, kept, count=3))
    split = loaded(run)[0].data.reader.split("test")
    wrong = []
    for i, decision in enumerate(decisions):
        target = split[i].target
        if kind == "mask":
            wrong.append(np.mean((decision.numpy() != target)[target != 255]))
        elif kind == "boxes":
            found = sure({key: value.numpy() for key, value in decision.items()}, 0.3)
            wrong.append(sum(part.sum() for part in wrong_and_missed(found, target)))
        elif kind == "label":
            wrong.append(-float(decision.log_softmax(0)[int(target)]))
        else:
            yes = decision.sigmoid().double().numpy()
            wrong.append(-np.log(np.where(target > 0.5, yes, 1 - yes)).mean())
    order = np.argsort(-np.array(wrong), kind="stable")[:3]
    worst = kept.examples["test_worst"]
    assert [example.id for example in worst] == [f"test/{i:06d}" for i in order]
    for i, example in zip(order, worst, strict=True):
        assert (example.image == np.asarray(Image.open(images / f"{i:06d}.png"))).all()
        if kind == "mask":
            assert (example.answer == decisions[i].numpy()).mean() > 0.999
    drawn = np.asarray(Image.open(tmp_path / "figures" / "test_worst.png"))
    assert (drawn == kept.pictures["test_worst"]).all()
