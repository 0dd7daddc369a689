"""A run judged again gives training's own numbers; several views or runs, the mean's taken by hand."""

import json
import shutil

import pytest
import torch
from torch.nn.functional import interpolate
from torchvision.transforms.functional import ten_crop

from command_line import script
from composing import composed
from paribus import evaluate
from paribus.config import ConfigError
from paribus.data.samples import Sample
from paribus.door import quoted
from paribus.losses import cross_entropy
from paribus.metrics import ClassificationMetrics, MultilabelMetrics, SegmentationMetrics
from paribus.restore import restored, run_config
from paribus.results import Run, read_json
from paribus.train import judge
from paribus.train import run as run_training
from paribus.windows import slide
from small_data import mask_folders
from test_train import TASKS, train


def judged(folder, *overrides: str) -> dict[str, float]:
    return evaluate.run(composed(quoted(f"run={folder}"), *overrides, root="evaluate"))


def listed(*folders) -> str:
    return f"[{','.join(map(str, folders))}]"


@pytest.mark.parametrize("kind", TASKS)
def test_training_and_evaluation_agree(tmp_path, kind, capsys):
    trained = train(tmp_path / "run", *TASKS[kind], "trainer.ema=0.9")
    for split in ("val", "test"):
        found = judged(tmp_path / "run", f"split={split}")
        finite = {name: value for name, value in found.items() if value == value}
        assert finite == {k: v for k, v in trained.metrics.items() if k.startswith(split) and v is not None}
        written = read_json(tmp_path / "run" / f"evaluation_{split}.json")
        assert written["split"] == split
        assert not {"runs", "views", "scales", "resize", "window", "judge_at"} & set(written)
    assert "class" in capsys.readouterr().out


# --- views and ensembles, by hand ------------------------------------------------------------------

SHORT = ["trainer.max_epochs=1", "data.reader.lengths={train: 48, val: 16, test: 21}"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of a target, with another seed and another backbone; each made once."""
    made = {}

    def get(kind: str):
        if kind not in made:
            root = tmp_path_factory.mktemp(kind)
            train(root / "a" / "seed=0", *TASKS[kind], *SHORT)
            train(
                root / "a" / "backbone.channels=[4,8],seed=1",
                *TASKS[kind],
                *SHORT,
                "backbone.channels=[4,8]",
                seed=1,
            )
            made[kind] = root / "a" / "seed=0", root / "a" / "backbone.channels=[4,8],seed=1"
        return made[kind]

    return get


def batches(folder, size=None):
    """The network of a run, and its test images and targets, as they come."""
    path, config = run_config(folder)
    config.data["size"] = size or config.data["size"]
    data, task, _ = restored(path, config)
    data.open("test")
    rows = [(data.normalize(images), targets) for images, targets, _ in data.eval_dataloader("test")]
    return torch.inference_mode()(task.model.eval()), rows, data.classes


@pytest.mark.parametrize(
    ("kind", "judge"),
    [("label", ClassificationMetrics), ("labels", MultilabelMetrics), ("mask", SegmentationMetrics)],
)
def test_two_runs_are_judged_as_the_mean_of_their_probabilities(tmp_path, runs, kind, judge, capsys):
    (one, rows, classes), (two, _, _) = (batches(folder) for folder in runs(kind))
    metric, losses, images_seen = judge(classes), 0.0, 0
    for images, targets in rows:
        if kind == "labels":
            mean = (one(images).sigmoid() + two(images).sigmoid()) / 2
            metric.update(mean.logit(), targets)
            loss = torch.nn.functional.binary_cross_entropy(mean, targets.float())
        else:
            mean = (one(images).softmax(1) + two(images).softmax(1)) / 2
            metric.update(mean.argmax(1) if kind == "mask" else mean.log(), targets)
            loss = cross_entropy(mean.log(), targets)
        losses, images_seen = losses + float(loss) * len(images), images_seen + len(images)
    found = judged(listed(*runs(kind)), f"output='{tmp_path}'")
    expected = {f"test/{name}": value for name, value in metric.compute().items()}
    expected["test/loss"] = losses / images_seen
    assert found == pytest.approx(expected, abs=1e-5)
    single = [Run.read(folder).metrics for folder in runs(kind)]
    assert all(found["test/loss"] != pytest.approx(values["test/loss"], abs=1e-5) for values in single)
    printed = capsys.readouterr().out
    monitor = run_config(runs(kind)[0])[1].task["monitor"].replace("val", "test")
    for values in (*single, found):
        assert f"{values[monitor]:.4f}" in printed.split("run ")[-1]


def test_ten_crops_are_cut_from_the_size_given(runs):
    folder, _ = runs("label")
    plain = judged(folder)
    pictures = folder / "figures" / "test_examples.png"
    drawn = pictures.stat().st_mtime_ns
    found = judged(folder, "views=ten_crop", "resize=[40,44]")
    model, rows, classes = batches(folder, [40, 44])
    metric = ClassificationMetrics(classes)
    for images, targets in rows:
        assert images.shape[-2:] == (40, 44)
        crops = [model(crop).softmax(1) for crop in ten_crop(images, [32, 32])]
        metric.update(torch.stack(crops).mean(0).log(), targets)
    expected = {f"test/{name}": value for name, value in metric.compute().items()}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    written = read_json(folder / "evaluation_test_ten_crop_40x44.json")
    assert written["views"], written["resize"] == ("ten_crop", [40, 44])
    assert written["runs"] == [str(folder)]
    assert read_json(folder / "evaluation_test.json")["metrics"] == plain
    assert pictures.stat().st_mtime_ns == drawn
    assert (folder / "figures" / "test_ten_crop_40x44_examples.png").is_file()
    assert (folder / "figures" / "test_ten_crop_40x44_worst.png").is_file()


def test_ten_crops_come_from_eight_sevenths_of_the_size(runs):
    judged(runs("label")[0], "views=ten_crop")
    assert read_json(runs("label")[0] / "evaluation_test_ten_crop.json")["resize"] == [37, 37]


def test_flips_and_scales_of_masks(runs):
    folder, _ = runs("mask")
    found = judged(folder, "views=flip", "scales=[0.5,1]", "split=val")
    written = read_json(folder / "evaluation_val_flip_x0.5_x1.json")
    assert (written["views"], written["scales"], written["resize"]) == ("flip", [0.5, 1.0], None)
    assert written["metrics"] == found
    assert found["val/loss"] != Run.read(folder).metrics["val/loss"]
    model, rows, classes = batches(folder)
    metric = SegmentationMetrics(classes)
    for images, targets in rows:
        answers = [model(images).softmax(1), model(images.flip(-1)).softmax(1).flip(-1)]
        metric.update(torch.stack(answers).mean(0).argmax(1), targets)
    assert judged(folder, "views=flip")["test/miou"] == pytest.approx(metric.compute()["miou"], abs=1e-6)
    assert (folder / "figures" / "test_flip_examples.png").is_file()


def test_an_ensemble_of_one_run_is_the_run(runs):
    folder, _ = runs("label")
    plain = judged(folder)
    assert judged(listed(folder)) == plain
    assert judged(f"{folder.parent}/seed=*") == plain  # a glob with one match
    assert judged(folder, "scales=[1.0]", "views=none") == plain


def test_an_ensemble_lies_beside_its_first_run(runs):
    """Named by a glob, which passes over what is no run, also over an ensemble of before."""
    first, second = runs("label")
    beside = first.parent / "ensemble"
    found = judged(f"{first.parent}/*")
    assert judged(f"{first.parent}/*") == found
    written = read_json(beside / "evaluation_test.json")
    assert written["runs"] == [str(second), str(first)]  # in natural order
    assert (written["views"], written["scales"]) == ("none", [1.0])
    assert (beside / "figures" / "test_examples.png").is_file()
    flipped = judged(listed(first, second), "views=flip")
    assert flipped["test/loss"] != found["test/loss"]
    assert read_json(beside / "evaluation_test_flip.json")["metrics"] == flipped
    assert read_json(beside / "evaluation_test.json")["metrics"] == found


def test_the_script_takes_a_list_of_folders_without_quotes(runs):
    """Seen from what it says of two members that are one, before torch is imported."""
    first, second = runs("label")
    done = script("evaluate", f"run=[{second.name},{first.name},{second.name}]", cwd=first.parent)
    assert done.returncode == 1
    assert f"error: run: {second.name} is named twice" in done.stderr


def test_a_members_data_set_is_not_opened(tmp_path, runs):
    """Its classes are in its result.json; where they are others, the mean means nothing."""
    first, second = runs("label")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "checkpoints/best.ckpt"):
        (tmp_path / "run" / name).write_bytes((second / name).read_bytes())
    result = read_json(second / "result.json")
    result["classes"] = list("9876543210")
    (tmp_path / "run" / "result.json").write_text(json.dumps(result))
    with pytest.raises(ConfigError, match=r"have different classes, .*\n  0, 1.*\n  9, 8"):
        judged(listed(first, tmp_path / "run"))


# --- masks: windows, and the size of their files ---------------------------------------------------


def test_masks_in_windows(runs):
    folder, _ = runs("mask")
    found = judged(folder, "window=[32,24]", "overlap=0.25")
    written = read_json(folder / "evaluation_test_window32x24_overlap0.25.json")
    assert (written["window"], written["overlap"], written["metrics"]) == ([32, 24], 0.25, found)
    model, rows, classes = batches(folder)
    metric = SegmentationMetrics(classes)
    for images, targets in rows:
        metric.update(slide(model, images, window=(32, 24), overlap=0.25).argmax(1), targets)
    assert found["test/miou"] == pytest.approx(metric.compute()["miou"], abs=1e-6)
    assert found["test/loss"] != pytest.approx(Run.read(folder).metrics["test/loss"], abs=1e-6)
    both = judged(folder, "window=[32,24]", "overlap=0.25", "views=flip")
    metric.reset()
    for images, targets in rows:
        flips = [slide(model, images.flip(f), window=(32, 24), overlap=0.25) for f in ((), (-1,))]
        mean = mean_probability(flips[0], flips[1].flip(-1))
        metric.update(mean.argmax(1), targets)
    assert both["test/miou"] == pytest.approx(metric.compute()["miou"], abs=1e-6)


def mean_probability(*logits: torch.Tensor) -> torch.Tensor:
    return torch.stack([one.softmax(1) for one in logits]).mean(0)


def test_training_validates_and_tests_in_windows(tmp_path):
    trained = train(tmp_path / "run", *TASKS["mask"], *SHORT, "task.window=[32,24]")
    plain = judged(tmp_path / "run")
    assert plain == {name: v for name, v in trained.metrics.items() if name.startswith("test/")}
    flipped = judged(tmp_path / "run", "views=flip")
    assert judged(tmp_path / "run", "views=flip", "window=[32,24]") == flipped


CLASSES = ["a", "b", "c"]


@pytest.fixture(scope="module")
def unequal(tmp_path_factory):
    """A set whose val and test images are of four sizes; and a run on it, judged at them, for each fit."""
    root = tmp_path_factory.mktemp("unequal")
    for each, size in ((7, (24, 32)), (5, (30, 20)), (3, (41, 37)), (1, (16, 20))):
        mask_folders(root / "set", splits=("val", "test"), each=each, size=size)
    mask_folders(root / "set", splits=("train",), each=16)
    common = ["data=mask_folders", f"data.reader.root={root / 'set'}", f"data.reader.classes={CLASSES}"]
    common += ["data.reader.images='{split}/*.png'", "data.reader.masks='{split}annot/*.png'"]
    common += ["task=segmentation", "model=unet", "model.decoder_channels=[16,8]", "backbone.channels=[8,16]"]
    common += ["data.num_workers=0", "data.batch_size=4", "data.verify=false", "trainer.progress=false"]
    common += ["data.size=[20,28]", "trainer.max_epochs=3"]
    for fit in ("stretch", "pad"):
        chosen = [f"data.fit={fit}", "data.judge_at=native"]
        run_training(composed(*common, *chosen), root / fit, in_sweep=True)
    return root


def by_hand(root, fit, answered):
    """Metrics of ``answered(model, image [1, C, H, W], size)`` against the masks as their files hold them."""
    path, config = run_config(root / fit)
    data, task, _ = restored(path, config)
    split = data.reader.split("test")
    metric, losses = SegmentationMetrics(CLASSES), []
    model = task.model.eval()
    with torch.inference_mode():
        for i in range(len(split)):
            image, mask, _ = split[i]
            fitted = data.eval_transform(Sample(image, mask, ""), None).image
            logits = answered(
                lambda x: model(data.normalize(torch.from_numpy(x.copy()).permute(2, 0, 1)[None])),
                image,
                fitted,
            )
            target = torch.from_numpy(mask.astype("int64"))[None]
            metric.update(logits.argmax(1), target)
            losses.append(float(cross_entropy(logits, target)))
    found = {f"test/{name}": value for name, value in metric.compute().items()}
    return found | {"test/loss": sum(losses) / len(losses)}


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_masks_are_judged_as_their_files_hold_them(unequal, fit):
    def answered(model, image, fitted):
        height, width = image.shape[:2]
        logits = model(fitted)
        if fit == "pad":  # what was filled is cut off
            ratio = min(20 / height, 28 / width)
            logits = logits[..., : round(height * ratio), : round(width * ratio)]
        return interpolate(logits, (height, width), mode="bilinear", antialias=True)

    trained = Run.read(unequal / fit).metrics
    expected = by_hand(unequal, fit, answered)
    assert {name: trained[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    found = judged(unequal / fit, "batch_size=7")  # nothing depends on it but a network's last bits
    assert found == pytest.approx({name: trained[name] for name in found}, abs=1e-5)
    fitted = judged(unequal / fit, "judge_at=fitted")
    assert fitted["test/miou"] != trained["test/miou"]
    assert judged(unequal / fit, "judge_at=native") == {name: trained[name] for name in found}
    pixels = read_json(unequal / fit / "evaluation_test_judged_native.json")["per_class"]["pixels"]
    whole = sum((h - 1) * w for h, w in [(24, 32)] * 2 + [(30, 20)] * 2 + [(41, 37)] * 2 + [(16, 20)])
    assert sum(pixels) == whole  # all but the first row of each, which is ignored


@pytest.mark.parametrize("window", [None, (12, 16)])
def test_images_at_their_own_sizes(unequal, window):
    """None is resized, and none is padded to those of its batch."""

    def answered(model, image, fitted):
        if window is None:
            return model(image)
        height, width = image.shape[:2]
        numbers = torch.arange(height * width).view(1, 1, height, width).float()  # which pixels, to cut

        def part(places):
            top, left = divmod(int(places[0, 0, 0, 0]), width)
            return model(image[top : top + places.shape[2], left : left + places.shape[3]])

        return slide(part, numbers, window=window, overlap=0.5)

    expected = by_hand(unequal, "stretch", answered)
    more = [f"window={list(window)}"] if window else []
    found = judged(unequal / "stretch", "resize=native", "batch_size=4", *more)
    assert found == pytest.approx(expected, abs=1e-5)
    name = "evaluation_test_native" + ("_window12x16" if window else "")
    assert read_json(unequal / "stretch" / f"{name}.json")["judge_at"] == "native"


def test_masks_at_another_size(unequal):
    found = judged(unequal / "stretch", "resize=[40,56]")
    assert found != judged(unequal / "stretch")
    config = run_config(unequal / "stretch")[1]
    config.data["size"] = [40, 56]
    parts = restored(unequal / "stretch", config)
    assert found == judge(parts, config.trainer, "test")


# --- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=nowhere"], "run=nowhere: no such folder"),
        (["run=[]"], r"run=\[\]: one run folder or more"),
        (["split=dev"], "split=dev: val or test"),
    ],
)
def test_bad_calls(tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        judged(tmp_path, *overrides)


@pytest.mark.parametrize(
    ("kind", "overrides", "message"),
    [
        ("label", ["views=crops"], "views=crops: none, flip or ten_crop"),
        ("label", ["scales=[]"], r"scales=\[\]: one factor or more"),
        ("label", ["resize=[40,40]"], r"resize=\[40, 40\]: .* with views=ten_crop only"),
        ("label", ["views=ten_crop", "resize=[40,31]"], r"resize=\[40, 31\]: .* crops of \[32, 32\]"),
        ("label", ["views=ten_crop", "resize=[40]"], r"resize=\[40\]: \[height, width\]"),
        ("mask", ["views=ten_crop"], "views=ten_crop answers for an image, not for its pixels"),
        ("label", ["views=ten_crop", "resize=native"], "resize=native: .* crops of \\[32, 32\\]"),
        ("label", ["window=[8,8]"], r"window=\[8, 8\]: of masks, and this run answers with label"),
        ("label", ["overlap=0.2"], r"overlap=0\.2: of masks, and this run answers with label"),
        ("label", ["judge_at=native"], r"judge_at=native` is for masks, and `label` is judged"),
        ("mask", ["judge_at=file"], "judge_at=file: fitted or native"),
        ("mask", ["window=[48,64]"], r"window=\[48, 64\] holds the whole image, .* fitted to \[48, 48\]"),
        ("mask", ["window=[8]"], r"task\.window=\[8\]: \[height, width\]"),
        ("mask", ["window=[8,8]", "overlap=1"], r"task\.overlap=1\.0: the share of a window"),
        ("mask", ["overlap=0.2"], r"overlap=0\.2 is that of windows: window="),
        ("mask", ["resize=[8]"], r"resize=\[8\]: \[height, width\] in pixels, or native"),
        ("mask", ["resize=own"], r"resize=own: \[height, width\] in pixels, or native"),
    ],
)
def test_views_that_cannot_be(runs, kind, overrides, message):
    with pytest.raises(ValueError, match=message):
        judged(runs(kind)[0], *overrides)


def test_boxes_are_not_averaged(tmp_path):
    folder = tmp_path / "run"
    train(folder, *TASKS["boxes"], "trainer.max_steps=1")
    shutil.copytree(folder, tmp_path / "twin")
    for called in ([folder, "views=flip"], [folder, "scales=[0.5,1]"], [listed(folder, tmp_path / "twin")]):
        with pytest.raises(ValueError, match=r"boxes .* cannot be averaged .* fusion is not built"):
            judged(*called)


def test_a_run_is_one_member(runs):
    first, _ = runs("label")
    with pytest.raises(ConfigError, match="seed=0 is named twice"):
        judged(listed(first, first.parent / ".." / first.parent.name / first.name))


def test_members_answer_the_same_question(tmp_path, runs):
    first, _ = runs("label")
    train(tmp_path / "other", *SHORT, "data.mean=[0.5,0.5,0.5]", "data.size=[24,24]", "trainer.max_steps=1")
    with pytest.raises(ConfigError, match="answer different questions") as caught:
        judged(listed(first, tmp_path / "other"))
    assert "\n  data.size: [32, 32] and [24, 24]" in str(caught.value)
    assert "\n  data.mean: [0.378, 0.416, 0.384] and [0.5, 0.5, 0.5]" in str(caught.value)
    with pytest.raises(ConfigError, match=r"\n  task\.target: label and mask"):
        judged(listed(first, runs("mask")[0]))
