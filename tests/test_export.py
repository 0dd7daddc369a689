"""Exported programs, used as a stranger would: by onnxruntime, and by what model.json says."""

import csv
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision.ops import batched_nms

from command_line import ROOT, script, succeeded
from composing import composed
from paribus import predict, train
from paribus.build import build
from paribus.checks import check
from paribus.config import ConfigError
from paribus.data.digit_scenes import DigitScenes
from paribus.data.samples import Sample
from paribus.data.transforms import Transform
from paribus.export import program, words
from paribus.export import run as command
from paribus.models.backbones.convnet import ConvNet
from paribus.models.detection.fcos import FCOS
from paribus.models.detection.retinanet import RetinaNet
from paribus.models.detection.ssd import SSD
from paribus.models.detection.yolo import YOLO
from paribus.models.detection.yolo_2015 import YOLO2015
from paribus.models.weights import load_weights

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

COMMON = [
    *["name=x", "data.num_workers=0", "trainer.progress=false", "trainer.threads=1", "trainer.max_epochs=1"],
    *["data.batch_size=8", "data.reader.lengths={train: 32, val: 4, test: 4}"],
]
MASK = ["task=segmentation", "data.size=[32,48]", "data.reader.digits=[1,1]"]
KINDS = {
    "convnet": ["backbone.channels=[4,8]", "data.fit=crop"],
    "timm": ["backbone=timm", "backbone.name=test_resnet", "data.fit=pad"],
    "unet": [*MASK, "model=unet", "model.decoder_channels=[8,8]", "backbone.channels=[4,8]"],
    "deeplab": [
        *[*MASK, "model=deeplabv3plus", "model.context_channels=8", "model.low_level_channels=4"],
        *["model.decoder_channels=[8]", "backbone.channels=[4,8,8]"],
    ],
    "retinanet": [
        *["task=detection", "data.size=[48,64]", "data.reader.digits=[1,1]", "model=retinanet"],
        *["model.pyramid_channels=8", "model.levels=[4,8,16]", "backbone.channels=[4,8,8]"],
        *["model.score_thresh=0.001", "model.detections_per_img=20", "model.candidates=100000"],
    ],
}
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("timm", "deeplab")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run folder of a kind, made once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "run"
            train.run(composed(*COMMON, *KINDS[kind]), made[kind])
        return made[kind]

    return get


@pytest.fixture(scope="module")
def exported(trained):
    """The folder of its export, made once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = export(trained(kind))
        return made[kind]

    return get


def export(run: Path, *more: str) -> Path:
    return command.run(OmegaConf.to_object(composed(f"run='{run}'", *more, root="export")))


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Files of sizes that no network has."""
    folder = tmp_path_factory.mktemp("images")
    for i, size in enumerate([(50, 70), (90, 64), (24, 31)]):
        scene = DigitScenes(target="mask", size=size, digits=(1, 1), scale=(0.6, 0.9)).split("test")[0].image
        Image.fromarray(scene).save(folder / f"{i}.png")
    return folder


# --- a stranger's program: model.json and onnxruntime -----------------------------------------------


def described(folder: Path) -> dict:
    return json.loads((folder / "model.json").read_text())


def asked(folder: Path, batch: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert {given.shape[0], *(output.shape[0] for output in session.get_outputs())} == {"batch"}
    assert (given.name, given.type) == ("images", "tensor(uint8)")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": batch}), strict=True))


def prepared(image: np.ndarray, size: dict) -> np.ndarray:
    """`preprocess`, done by its words: uint8 [3, height, width]."""

    def resized(to: tuple[int, int]) -> np.ndarray:
        if to == image.shape[:2]:
            return image
        halved = any(2 * new <= old for new, old in zip(to, image.shape[:2], strict=True))
        return cv2.resize(image, to[::-1], interpolation=cv2.INTER_AREA if halved else cv2.INTER_LINEAR)

    (h, w), (height, width) = image.shape[:2], (size["height"], size["width"])
    if size["fit"] == "stretch":
        return resized((height, width)).transpose(2, 0, 1)
    if size["fit"] == "crop":
        ratio = max(height / h, width / w)
        whole = resized((max(1, round(h * ratio)), max(1, round(w * ratio))))
        top, left = (whole.shape[0] - height) // 2, (whole.shape[1] - width) // 2
        return whole[top : top + height, left : left + width].transpose(2, 0, 1)
    assert size["fit"] == "pad"
    ratio = min(height / h, width / w)
    whole = resized((max(1, round(h * ratio)), max(1, round(w * ratio))))
    filled = np.zeros((height, width, 3), np.uint8)
    filled[: whole.shape[0], : whole.shape[1]] = whole
    return filled.transpose(2, 0, 1)


def opened(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def read_boxes(kind: str, said: dict, outputs: dict, anchors: np.ndarray | None) -> tuple:
    """Of one image, `postprocess` by its words: boxes [N, 4] and scores [N, classes]."""
    one = {name: output[0].astype(np.float64) for name, output in outputs.items()}
    if kind in ("RetinaNet", "FCOS", "SSD"):
        assert anchors is not None
        x1, y1, x2, y2 = anchors.astype(np.float64).T
        cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
        a, b, c, d = one["bbox_regression"].T
        if kind == "FCOS":
            scores = np.sqrt(sigmoid(one["cls_logits"]) * sigmoid(one["bbox_ctrness"]))
            return np.stack([cx - a * w, cy - b * h, cx + c * w, cy + d * h], 1), scores
        scores = sigmoid(one["cls_logits"])
        if kind == "SSD":
            a, b, c, d = a / 10, b / 10, c / 5, d / 5
            power = np.exp(one["cls_logits"])
            scores = (power / power.sum(1, keepdims=True))[:, 1:]
        x, y = cx + a * w, cy + b * h
        w, h = (side * np.exp(np.minimum(by, math.log(1000 / 16))) for side, by in ((w, c), (h, d)))
        return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), scores
    multiple = said["detector"]["padded_to_multiple_of"]
    height, width = (-(-said["input"]["size"][side] // multiple) * multiple for side in ("height", "width"))
    if kind == "YOLO":
        cells, places = one["cells"], []
        for s in said["detector"]["levels"]:
            rows, columns = -(-height // s), -(-width // s)
            places += [(r, c, s) for r in range(rows) for c in range(columns)]
        r, c, s = np.array(places).T
        x, y = (c + 0.5 + cells[:, 0]) * s, (r + 0.5 + cells[:, 1]) * s
        w, h = (np.exp(cells[:, i].clip(-math.log(1000), math.log(1000))) * s for i in (2, 3))
        scores = sigmoid(cells[:, 4:5]) * sigmoid(cells[:, 5:])
        return np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], 1), scores
    grid, count, found, scores = one["map"], said["detector"]["boxes"], [], []
    side = grid.shape[1]
    for r in range(side):
        for c in range(side):
            for box in grid[: count * 5, r, c].reshape(count, 5):
                x, y, w, h = (c + box[0]) / side, (r + box[1]) / side, box[2] ** 2, box[3] ** 2
                found.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
                scores.append(box[4].clip(0, 1) * grid[count * 5 :, r, c].clip(0, 1))
    return np.array(found) * [width, height, width, height], np.array(scores)


def selected(boxes: np.ndarray, scores: np.ndarray, said: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rest of `postprocess`, in pixels of the input."""
    detector, size, early = (
        said["detector"],
        said["input"]["size"],
        "drop those without an area" in said["postprocess"][3],
    )
    boxes = boxes.clip(0, [size["width"], size["height"]] * 2)
    inside = (boxes[:, 2:] > boxes[:, :2]).all(1) if early else np.ones(len(boxes), bool)
    row, label = np.nonzero((scores > detector["score_thresh"]) & inside[:, None])
    found, best = torch.from_numpy(boxes[row]).float(), torch.from_numpy(scores[row, label]).float()
    kept = batched_nms(found, best, torch.from_numpy(label), detector["nms_thresh"])
    kept = kept[: detector["detections_per_img"]]
    padded = any(size[side] % detector["padded_to_multiple_of"] for side in ("height", "width"))
    if padded and not early:
        kept = kept[(found[kept, 2:] > found[kept, :2]).all(1)]
    return found[kept].numpy(), best[kept].numpy(), label[kept.numpy()]


# --- whole runs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["convnet", SLOW[0]])
def test_a_classifier_answers_as_predict_does(trained, exported, images, tmp_path, kind):
    folder = exported(kind)
    said = described(folder)
    batch = np.stack([prepared(image, said["input"]["size"]) for image in opened(images)])
    logits = asked(folder, batch)["logits"]
    assert logits.shape == (3, len(said["classes"]))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    output = predict.run(
        composed(f"run='{trained(kind)}'", f"images='{images}'", f"output='{tmp_path}'", root="predict")
    )
    with open(output / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, mine in zip(rows, probabilities, strict=True):
        assert row["class"] == said["classes"][mine.argmax()]
        assert float(row["probability"]) == pytest.approx(mine.max(), abs=2e-6)
    read = torch.export.load(folder / "model.pt2").module()(torch.from_numpy(batch))
    assert read.numpy() == pytest.approx(logits, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", SLOW[1]])
def test_a_segmenter_answers_as_predict_does_at_every_size(trained, exported, images, tmp_path, kind):
    folder = exported(kind)
    said = described(folder)
    assert "any height and width" in said["input"]["program_takes"]
    assert said["outputs"]["logits"]["shape"] == ["batch", 11, "height", "width"]
    read = torch.export.load(folder / "model.pt2").module()
    for resize in ("null", "native"):
        output = predict.run(
            composed(
                *[f"run='{trained(kind)}'", f"images='{images}'", f"output='{tmp_path / resize}'"],
                f"resize={resize}",
                root="predict",
            )
        )
        for i, image in enumerate(opened(images)):
            given = image.transpose(2, 0, 1) if resize == "native" else prepared(image, said["input"]["size"])
            logits = torch.from_numpy(asked(folder, given[None])["logits"])
            assert logits.shape[2:] == given.shape[1:]
            assert (read(torch.from_numpy(given[None].copy())) - logits).abs().max() < 1e-4
            logits = F.interpolate(logits, image.shape[:2], mode="bilinear", antialias=True)
            mask = np.asarray(Image.open(output / "masks" / f"{i}.png"))
            assert (mask == logits.argmax(1)[0].numpy()).mean() > 0.999
    assert len(np.unique(mask)) > 1  # it says more than one thing


@pytest.mark.slow
def test_a_detectors_outputs_become_the_boxes_of_predict(trained, exported, images, tmp_path):
    folder = exported("retinanet")
    said = described(folder)
    assert [*said["outputs"]] == ["cls_logits", "bbox_regression"]
    assert any("non-maximum suppression" in line for line in said["left_out"])
    output = predict.run(
        composed(
            f"run='{trained('retinanet')}'", f"images='{images}'", f"output='{tmp_path}'", root="predict"
        )
    )
    listed = json.loads((output / "predictions.json").read_text())
    anchors = np.load(folder / "anchors.npy")
    for i, image in enumerate(opened(images), start=1):
        outputs = asked(folder, prepared(image, said["input"]["size"])[None])
        boxes, scores, labels = selected(*read_boxes("RetinaNet", said, outputs, anchors), said)
        theirs = [row for row in listed if row["image_id"] == i]
        assert len(theirs) == len(boxes) > 0
        zoom = [
            image.shape[1] / said["input"]["size"]["width"],
            image.shape[0] / said["input"]["size"]["height"],
        ]
        assert [row["score"] for row in theirs] == pytest.approx(scores.tolist(), abs=1e-4)
        assert [row["category_id"] - 1 for row in theirs] == labels.tolist()
        corners = np.array([row["bbox"] for row in theirs])
        corners[:, 2:] += corners[:, :2]
        assert corners == pytest.approx(boxes * (zoom * 2), abs=2e-2)


def test_the_description_says_what_the_run_was_and_how_far_the_programs_are(trained, exported):
    folder = exported("convnet")
    said, result = described(folder), json.loads((trained("convnet") / "result.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == [
        *["model.json", "model.onnx", "model.pt2", "model.safetensors"]
    ]
    assert said["task"] == "classification"
    assert said["classes"] == result["classes"]
    assert said["input"]["size"] == {"height": 32, "width": 32, "fit": "crop"}
    assert (said["input"]["mean"], said["input"]["std"]) == ([0.378, 0.416, 0.384], [0.335, 0.276, 0.292])
    assert said["run"]["commit"] == result["commit"]
    assert said["run"]["status"] == "done"
    assert said["run"]["metrics"] == result["metrics"]
    assert {"torch", "onnx", "onnxscript", "onnxruntime"} <= said["export"]["versions"].keys()
    assert said["files"]["model.onnx"]["opset"] == 18
    for name in ("model.onnx", "model.pt2"):
        assert 0 <= said["files"][name]["largest_difference_of_range"] < 1e-5


def test_the_weights_are_those_of_the_run_and_load_as_a_backbone(trained, exported):
    from safetensors import safe_open

    path = exported("convnet") / "model.safetensors"
    checkpoint = torch.load(trained("convnet") / train.CHECKPOINT, weights_only=True)["state_dict"]
    with safe_open(path, "pt") as file:
        assert {f"model.{name}" for name in file.keys()} == checkpoint.keys()  # noqa: SIM118
        assert all(torch.equal(file.get_tensor(name), checkpoint[f"model.{name}"]) for name in file.keys())  # noqa: SIM118
        assert json.loads(file.metadata()["classes"]) == list("0123456789")
        assert json.loads(file.metadata()["backbone"])["channels"] == [4, 8]
    backbone = ConvNet(channels=[4, 8], weights=str(path))
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, checkpoint[f"model.backbone.{name}"])
    assert load_weights(backbone, str(path), ("backbone.",)) == len(backbone.state_dict())


def test_a_new_export_takes_the_place_of_all_of_the_old(trained, exported, tmp_path):
    shutil.copytree(exported("convnet"), tmp_path / "out")
    folder = export(trained("convnet"), "format=torch", f"output='{tmp_path / 'out'}'")
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.pt2", "model.safetensors"]
    assert [*described(folder)["files"]] == ["model.pt2", "model.safetensors"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_the_script_writes_the_same_program(trained, exported, tmp_path):
    run = trained("unet")
    shutil.copytree(run, tmp_path / "seed=0")
    done = succeeded(script("export", "run=seed=0", "format=onnx", cwd=tmp_path))
    assert "model.onnx: " in done.stdout
    assert "of the range from the network at most" in done.stdout
    batch = np.random.default_rng(0).integers(0, 256, (2, 3, 37, 50), np.uint8)
    found = asked(tmp_path / "seed=0" / "export", batch)["logits"]
    assert found == pytest.approx(asked(exported("unet"), batch)["logits"], abs=1e-6)
    refused = script("export", f"run={tmp_path}", cwd=tmp_path)
    assert refused.returncode == 1
    assert f"error: run={tmp_path}: no config.yaml there" in refused.stderr


# --- refusals ---------------------------------------------------------------------------------------


def test_a_program_that_answers_otherwise_is_not_written(trained, tmp_path, monkeypatch):
    honest = program.onnx_answers

    def wrong(path):
        answers = honest(path)
        return lambda images: [output + 0.01 for output in answers(images)]

    monkeypatch.setattr(program, "onnx_answers", wrong)
    with pytest.raises(
        program.ExportError, match=r"model\.onnx answers otherwise than the network: by 0\.01, "
    ):
        export(trained("convnet"), f"output='{tmp_path / 'out'}'", "format=onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said(trained, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="run=nowhere: no such folder"):
        export(Path("nowhere"))
    with pytest.raises(ConfigError, match="format=tflite: onnx, torch or both"):
        export(trained("convnet"), "format=tflite")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is a file, and a folder is written"):
        export(trained("convnet"), f"output='{tmp_path / 'file'}'")
    shutil.copytree(trained("convnet"), tmp_path / "begun")
    (tmp_path / "begun" / train.CHECKPOINT).unlink()
    with pytest.raises(ConfigError, match="is missing: the run has not finished an epoch; train it first"):
        export(tmp_path / "begun")
    monkeypatch.setattr(command, "_installed", lambda name: name not in ("onnx", "onnxscript"))
    with pytest.raises(
        ConfigError, match=r"format=both needs onnx and onnxscript.*pip install -e \.\[export\]"
    ):
        export(trained("convnet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun", "file"]


def test_without_onnxruntime_it_says_that_it_did_not_compare(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_installed", lambda name: name not in ("onnxruntime", "safetensors"))
    folder = export(trained("convnet"), f"output='{tmp_path / 'out'}'", "format=onnx")
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.onnx"]
    said = described(folder)["files"]["model.onnx"]
    assert said == {
        "opset": 18,
        "compared": "not compared: onnxruntime is not installed (pip install -e .[export])",
    }


@pytest.mark.parametrize(
    ("model", "operator"),
    [
        (["model=faster_rcnn", "model.pyramid_channels=8", "model.box_channels=8"], "torchvision::roi_align"),
        (["task=clustering", "model=clustering", "backbone=none"], r"scipy\.spatial\.distance\.cdist"),
    ],
)
def test_a_model_that_is_no_tensor_program_names_the_operator(model, operator):
    task = [] if "task=clustering" in model else ["task=detection"]
    parts = build(check(composed("name=x", *task, *model, "data.size=[32,32]")))
    with pytest.raises(program.ExportError, match=f"cannot be exported: .*{operator}"):
        command._refuse(parts.task.model)


class Around(nn.Module):
    """A model with a function in place of its network."""

    def __init__(self, function, stride=8):
        super().__init__()
        self.function = function
        self.backbone = nn.Identity()
        self.backbone.strides = [stride]

    def forward(self, x):
        return self.function(x)


PLAIN = {"mean": torch.zeros(1, 3, 1, 1), "scale": torch.ones(1, 3, 1, 1), "gray": False, "cropped": True}


def made(function, *, size, free):
    def original(images):
        return [function(images.float())]

    return program.traced(Around(function), size=size, free=free, original=original, **PLAIN)


def test_an_operator_that_onnx_lacks_is_named(tmp_path):
    found = made(lambda x: torch.linalg.eigvals(x).real, size=(8, 8), free=False)
    with pytest.raises(program.ExportError, match=r"ONNX \(opset 18\) cannot hold it: operator aten::.*eig"):
        program.write_onnx(found, tmp_path / "x.onnx", ["logits"])


def test_a_network_of_one_size_is_exported_for_it_and_says_why():
    weight = torch.randn(8, 8)
    found = made(lambda x: x @ weight, size=(16, 8), free=True)
    assert (found.least, found.tested) == (None, [(1, 16, 8), (3, 16, 8)])
    assert "8 pixels" in found.why
    found = made(lambda x: x @ torch.cat([weight, weight]), size=(16, 16), free=True)
    assert found.least is None
    assert "width" in found.why
    with pytest.raises(program.ExportError, match=r"data\.size=null.*same reduction dim"):
        made(lambda x: x @ weight, size=None, free=True)


def test_a_network_that_pads_in_its_own_way_is_not_padded_for_it():
    """The mean of all pixels would be another."""
    found = made(lambda x: x - x.mean((2, 3), keepdim=True), size=(32, 32), free=True)
    assert found.least == 9
    assert (
        program.difference(
            program.called(found.exported),
            lambda i: [i.float() - i.float().mean((2, 3), keepdim=True)],
            [(1, 33, 41)],
        ).of_range
        < 1e-6
    )


def test_differences_are_shares_of_the_range_and_nan_is_far():
    def original(images):
        return [images.float()]

    near = program.difference(lambda i: [i.float() + 0.5], original, [(1, 16, 16), (2, 8, 8)])
    assert near.absolute == pytest.approx(0.5)
    assert near.of_range == pytest.approx(0.5 / 255, rel=0.02)
    assert program.difference(lambda i: [i.float() / 0 * 0], original, [(1, 8, 8)]).of_range == math.inf
    assert program.difference(lambda i: [i.float()[:1]], original, [(2, 8, 8)]).of_range == math.inf


# --- words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_words_fit_an_image_as_the_data_does(fit):
    random = np.random.default_rng(0)
    for h, w, height, width in random.integers(5, 60, (30, 4)).tolist():
        image = random.integers(0, 256, (h, w, 3), np.uint8)
        fitted = Transform(target="label", size=(height, width), fit=fit)(Sample(image, 0, ""), None).image
        assert (
            prepared(image, {"height": height, "width": width, "fit": fit}) == fitted.transpose(2, 0, 1)
        ).all()
        said = " ".join(words.preparing((height, width), fit, gray=False))
        assert str(height) in said
        assert str(width) in said


@pytest.mark.parametrize("channels", [1, 3])
def test_the_program_normalizes_as_the_data_does(channels):
    data = build(
        check(
            composed(
                *["name=x", f"data.channels={channels}", f"data.mean={[0.4, 0.3, 0.2][:channels]}"],
                f"data.std={[0.2, 0.3, 0.4][:channels]}",
            )
        )
    ).data
    images = torch.randint(0, 256, (2, 3, 9, 7), dtype=torch.uint8)
    whole = program.Program(
        model=nn.Identity(), mean=data.mean, scale=data.scale, gray=channels == 1, multiple=1, cropped=False
    )
    assert torch.equal(whole(images), data.normalize(images))


@pytest.mark.parametrize("kind", [RetinaNet, FCOS, SSD, YOLO, YOLO2015])
def test_the_words_read_boxes_as_the_detector_does(kind):
    torch.manual_seed(0)
    keys = {"score_thresh": 0.001, "nms_thresh": 0.5, "detections_per_img": 50}
    model = kind(backbone=ConvNet(channels=[4, 8, 8]), num_classes=3, **keys).eval()
    if hasattr(model, "candidates"):
        model.candidates = 100000
    if hasattr(model, "topk_candidates"):
        model.topk_candidates = 100000
    with torch.no_grad():
        for parameter in model.parameters():  # away from the start, where all say the same
            parameter.add_(torch.randn_like(parameter) * 0.05)
        images = torch.randn(1, 3, 40, 52)
        (truth,), seen = model(images), model.see(images)
        answer = model.raw(images)
        anchors = model.anchors(seen)[0].numpy() if hasattr(model, "anchors") else None
    names = list(answer) if isinstance(answer, dict) else words.NAMES[kind.__name__]
    outputs = dict(zip(names, [o.numpy() for o in program.outputs(answer)], strict=True))
    for name in names:
        assert name in " ".join(words.DECODING[kind.__name__])
    said = {
        "input": {"size": {"height": 40, "width": 52}},
        "postprocess": words.finding(model),
        "detector": keys | {"padded_to_multiple_of": 8, "boxes": getattr(model, "boxes", None)},
    }
    if kind is YOLO:
        said["detector"]["levels"] = model.pyramid.levels
    boxes, scores, labels = selected(*read_boxes(kind.__name__, said, outputs, anchors), said)
    assert len(boxes) == len(truth["boxes"]) > 5
    assert scores == pytest.approx(truth["scores"].numpy(), abs=1e-5)
    assert (labels == truth["labels"].numpy()).all()
    assert boxes == pytest.approx(truth["boxes"].numpy(), abs=1e-3)


# --- the door ---------------------------------------------------------------------------------------


def test_help_imports_no_torch():
    code = (
        "import sys, runpy; sys.argv = ['export.py', '--help']\n"
        "try: runpy.run_path('scripts/export.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "format=onnx" in done.stdout
