"""Clustering: each method finds regions that are known, the fit is what it says, and a run of it is a run."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from composing import composed
from paribus import evaluate, predict
from paribus.build import build
from paribus.checks import check
from paribus.models.backbones.convnet import ConvNet
from paribus.models.backbones.mlp import MLP
from paribus.models.segmentation.clustering import Clustering, NoBackbone
from paribus.models.segmentation.segments import METHODS, felzenszwalb, kmeans, mean_shift, slic, watershed
from paribus.models.segmentation.unet import UNet
from paribus.report import run as report
from paribus.results import Run, read_json
from paribus.tasks import Clustering as Task
from paribus.train import run
from small_data import mask_folders

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COLOURS = np.array([(200, 60, 50), (40, 90, 190), (230, 220, 90), (60, 160, 80)], np.uint8)


def scene(noise: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image [48, 64, 3] and its regions [48, 64]: three stripes, and a disc of the fourth colour."""
    regions = np.repeat(np.arange(64) // 22, 48).reshape(64, 48).T.copy()
    y, x = np.mgrid[:48, :64]
    regions[(y - 24) ** 2 + (x - 33) ** 2 < 15**2] = 3
    drawn = np.random.default_rng(0).integers(-noise, noise + 1, (48, 64, 3))
    return (COLOURS[regions] + drawn).clip(0, 255).astype(np.uint8), regions


def normalized(images: np.ndarray) -> torch.Tensor:
    pixels = torch.from_numpy(images).float().permute(0, 3, 1, 2)
    return (pixels / 255 - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def model(method: str = "slic", classes: int = 4, **keys) -> Clustering:
    keys = {"prototypes": 16, "spacing": 2, **keys}
    return Clustering(backbone=NoBackbone(), num_classes=classes, method=method, mean=MEAN, std=STD, **keys)


# --- segments ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_segments_keep_to_the_regions(method):
    image, regions = scene(noise=6)
    segments = METHODS[method](image)
    assert segments.shape == regions.shape
    assert set(np.unique(segments)) == set(range(segments.max() + 1)), "numbered from 0 without a gap"
    of_most = np.array([np.bincount(regions[segments == n]).argmax() for n in range(segments.max() + 1)])
    # Blurred or flooded borders cost a pixel on either side of 200 pixels of them.
    assert (of_most[segments] == regions).mean() > 0.97
    assert (METHODS[method](image) == segments).all()


@pytest.mark.parametrize(("method", "keys"), [(mean_shift, {}), (felzenszwalb, {"sigma": 0.0})])
def test_flat_regions_are_found_exactly(method, keys):
    image, regions = scene()
    pairs = np.unique(np.stack([method(image, **keys), regions]).reshape(2, -1), axis=1)
    # The disc cuts the middle stripe into the pieces above and below it.
    pieces = 1 + sum(cv2.connectedComponents((regions == r).astype(np.uint8))[0] - 1 for r in range(4)) - 1
    assert pairs.shape[1] == len(set(pairs[0])) == pieces == 5


def test_kmeans_without_place_is_one_cluster_a_colour():
    image, regions = scene()
    segments = kmeans(image, segments=12, compactness=0.0)
    for colour in range(4):
        assert not set(segments[regions == colour]) & set(segments[regions != colour])
    assert segments[0, 30] == segments[-1, 30], "the pieces above and below the disc"
    assert segments[0, 30] != slic(image)[-1, 30]


def test_the_number_of_segments():
    image, _ = scene(noise=6)
    for method in (kmeans, slic, watershed):
        few, many = (len(np.unique(method(image, segments=n))) for n in (12, 100))
        assert 6 <= few <= 18, method
        assert 60 <= many <= 130, method
    assert felzenszwalb(image, scale=10.0).max() > felzenszwalb(image, scale=1000.0).max()
    assert (
        felzenszwalb(image, smallest=1, scale=10.0).max()
        > felzenszwalb(image, smallest=100, scale=10.0).max()
    )
    assert mean_shift(image, color_radius=3.0).max() > mean_shift(image, color_radius=20.0).max()


def test_every_key_of_a_method_changes_its_answer():
    image, _ = scene(noise=12)
    other = {"segments": 30, "compactness": 50.0, "sigma": 2.5, "scale": 5.0, "smallest": 200}
    other |= {"spatial_radius": 2.0, "color_radius": 20.0}
    for name, method in METHODS.items():
        for key in list(method.__kwdefaults__):
            assert (method(image, **{key: other[key]}) != method(image)).any(), (name, key)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 40), (31, 17)])
def test_any_size(method, size):
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    assert METHODS[method](image).shape == size


# --- the model of classes --------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_what_was_seen_is_named(method):
    image, regions = scene(noise=6)
    fitted = model(method)
    images, masks = normalized(image[None]), torch.from_numpy(regions)[None]
    fitted.fit(fitted.draw(images, masks), seed=0)
    logits = fitted(images)
    assert logits.shape == (1, 4, 48, 64)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(1, 48, 64))
    assert (logits.argmax(1) == masks).float().mean() > 0.97


def test_pixels_are_drawn_on_a_grid_with_their_colour_and_place():
    image, _ = scene()
    mask = torch.full((1, 48, 64), 255)
    mask[0, 5, 7], mask[0, 5, 8] = 2, 3  # with spacing 4 the grid is 2, 6, ... and with 2 it is 1, 3, 5, ...
    assert len(model(spacing=4).draw(normalized(image[None]), mask)) == 0
    (row,) = model(spacing=2, position=100.0).draw(normalized(image[None]), mask).tolist()
    lab = cv2.cvtColor(image[5:6, 7:8].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0, 0]
    assert row == pytest.approx([*lab, 100 * 5.5 / 48, 100 * 7.5 / 64, 2], abs=1e-4)


def test_the_pixels_are_those_before_normalization():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert (model()._pixels(normalized(values)) == values).all()
    gray = Clustering(backbone=NoBackbone(), num_classes=2, method="slic", mean=[0.5], std=[0.25])
    assert (gray._pixels(normalized(values)[:, :1] * STD[0] / 0.25 + (MEAN[0] - 0.5) / 0.25) == values).all()


def test_one_prototype_gives_the_frequencies_of_the_classes():
    image, _ = scene()
    mask = torch.zeros(1, 48, 64, dtype=torch.int64)
    mask[:, :12] = 2
    one = model(prototypes=1, spacing=1)
    one.fit(one.draw(normalized(image[None]), mask), seed=0)
    shares = one(normalized(image[None])).exp()
    pixels = 48 * 64
    for share, count in zip(shares[0, :, 3, 3].tolist(), (pixels * 3 / 4, 0, pixels / 4, 0), strict=True):
        assert share == pytest.approx((count + (count + 1) / (pixels + 4)) / (pixels + 1), rel=1e-4)
    assert shares.std(dim=(2, 3)).max() == 0


def test_the_fit_does_not_depend_on_order_batches_or_threads():
    images = normalized(np.stack([scene(noise)[0] for noise in (2, 5, 9, 20)]))
    masks = torch.from_numpy(scene()[1]).expand(4, -1, -1)
    together, apart = model(), model()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together.fit(together.draw(images, masks), seed=3)
        answer = together(images)
        torch.set_num_threads(3)
        apart.fit(torch.cat([apart.draw(images[i : i + 1], masks[i : i + 1]) for i in (2, 0, 3, 1)]), seed=3)
        assert torch.equal(apart(images), answer)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(together.prototypes, apart.prototypes)
    other = model()
    other.fit(other.draw(images, masks), seed=4)
    assert not torch.equal(other.prototypes, apart.prototypes)


REFUSED = {
    "slic has no such key, its own are segments, compactness, sigma": {"scale": 3.0},
    r"model.segments=0: above 0": {"segments": 0},
    r"model.sigma=-1.0: 0 or more": {"sigma": -1.0},
    r"model.compactness=0: above 0": {"compactness": 0},
    r"model.prototypes=0, spacing=2, position=50.0: 1, 1 and 0 or more": {"prototypes": 0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused_keys(message):
    with pytest.raises(ValueError, match=message):
        model(**REFUSED[message])


def test_refused_backbones():
    with pytest.raises(ValueError, match="backbone=none"):
        Clustering(backbone=MLP(size=(8, 8)), num_classes=2, method="slic", mean=MEAN, std=STD)
    with pytest.raises(ValueError, match="goes with model=clustering only"):
        UNet(backbone=NoBackbone(), num_classes=2, decoder_channels=[8])


def test_too_few_pixels():
    few = model(prototypes=4)
    with pytest.raises(ValueError, match=r"model.prototypes=4, but 3 labelled pixels were drawn"):
        few.fit(torch.zeros(3, 6), seed=0)


# --- runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return mask_folders(tmp_path_factory.mktemp("data"), each=8, size=(36, 48))


def overrides(place, *more: str) -> list[str]:
    small = [f"data.reader.root={place}", "data.reader.classes=[a,b,c]", "data.reader.palette=null"]
    small += ["data.reader.ignore=[]", "data.size=[36,48]", "data.batch_size=2", "data.verify=false"]
    small += ["model.prototypes=32", "model.spacing=3", "task.boundary_f1=true", "trainer.progress=false"]
    return ["experiment=camvid_clustering", *small, *more]


def test_runs_are_judged_again_applied_and_compared(place, tmp_path, recwarn, capsys):
    for method in ("slic", "felzenszwalb"):
        run(composed(*overrides(place, f"model.method={method}")), tmp_path / "runs" / method)
        found = Run.read(tmp_path / "runs" / method)
        assert found.status == "done"
        assert found.metrics["test/miou"] > 0.9, "flat colours are named"
        assert found.result["per_class"]["test"]["class"] == ["a", "b", "c"]
        assert found.result["parameters"] == 32 * (5 + 3)
        assert found.result["macs"] is None
        assert any("boundary" in name for name in found.metrics)
        assert (found.path / "figures" / "val_examples.png").is_file()
    assert not [str(w.message) for w in recwarn if "`None`" in str(w.message)], "neither optimizer nor loss"

    evaluate.run(composed(f"run={found.path}", root="evaluate"))
    judged = read_json(found.path / "evaluation_test.json")["metrics"]
    assert judged == {name: value for name, value in found.metrics.items() if name.startswith("test/")}
    predict.run(composed(f"run={found.path}", f"images={place / 'test'}", root="predict"))
    mask = np.array(Image.open(found.path / "predictions" / "masks" / "000.png"))
    truth = np.array(Image.open(place / "testannot" / "000.png"))
    assert (mask == truth)[1:].mean() > 0.95
    capsys.readouterr()
    report.run(folder=tmp_path / "runs")
    assert "felzenszwalb" in (said := capsys.readouterr().out)
    assert "2 done" in said


def test_an_interrupted_run_goes_on(place, tmp_path, monkeypatch):
    cfg = composed(*overrides(place, "trainer.checkpoint_every=1"))
    draw, calls = Clustering.draw, []

    def interrupted(self, *batch):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw(self, *batch)

    run(cfg, tmp_path / "whole")
    monkeypatch.setattr(Clustering, "draw", interrupted)
    with pytest.raises(SystemExit):
        run(cfg, tmp_path / "broken")
    assert Run.read(tmp_path / "broken").status == "interrupted"
    run(cfg, tmp_path / "broken")
    assert len(calls) == 3 + 2, "the first two of four batches are not drawn again"
    whole, broken = (
        torch.load(tmp_path / name / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_run_ended_by_steps_is_fitted_to_what_it_saw(place, tmp_path):
    run(composed(*overrides(place, "trainer.max_steps=2")), tmp_path / "run")
    found = Run.read(tmp_path / "run")
    assert (found.status, found.result["steps"]) == ("done", 2)
    assert found.metrics["val/miou"] > 0.3


def test_tasks_and_models_that_do_not_fit_one_another(place):
    unet = UNet(backbone=ConvNet(channels=[4, 4]), num_classes=2, decoder_channels=[4])
    with pytest.raises(ValueError, match="UNet is trained: task=segmentation"):
        Task(
            target="mask",
            monitor="val/miou",
            mode="max",
            model=unet,
            metrics=None,
            optimizer=None,
            scheduler=None,
        )
    task = build(check(composed(*overrides(place)))).task
    assert isinstance(task, Task)
    task.trainer = SimpleNamespace(world_size=2, callbacks=[])
    with pytest.raises(ValueError, match=r"trainer.devices=1"):
        task.setup("fit")


def test_an_average_of_weights_is_refused(place, tmp_path):
    with pytest.raises(ValueError, match=r"trainer.ema"):
        run(composed(*overrides(place, "trainer.ema=0.9")), tmp_path / "run")
