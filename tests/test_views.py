"""The mean over views and networks, held to the same mean taken by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.functional import ten_crop

from paribus.views import Views
from paribus.windows import slide

IMAGES = torch.randn(3, 3, 12, 16, generator=torch.Generator().manual_seed(0))


def classifier(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    ).eval()


def segmenter(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1)).eval()


def mean_of(answers: list[torch.Tensor]) -> torch.Tensor:
    return torch.stack(answers).mean(0)


@torch.inference_mode()
def test_ten_crops_are_torchvisions():
    model = classifier()
    by_hand = mean_of([model(crop).softmax(1) for crop in ten_crop(IMAGES, [8, 10])])
    found = Views(models=[model], target="label", views="ten_crop", crop=(8, 10))(IMAGES)
    torch.testing.assert_close(found, by_hand.log())


@torch.inference_mode()
def test_the_reflection_of_a_centre_that_is_off_by_half_a_pixel_is_its_own():
    seen = []
    probe = nn.Module()
    probe.forward = lambda crop: seen.append(crop.clone()) or crop.mean((2, 3))
    Views(models=[probe], target="label", views="ten_crop", crop=(7, 11))(IMAGES)
    assert len(seen) == 10
    for crop, mirror in zip(seen[::2], seen[1::2], strict=True):
        assert crop.shape == (3, 3, 7, 11)
        assert torch.equal(mirror, crop.flip(-1))
    assert torch.equal(seen[0], IMAGES[..., :7, :11])
    assert torch.equal(seen[2], IMAGES[..., :7, -11:])
    assert torch.equal(seen[4], IMAGES[..., -7:, :11])
    assert torch.equal(seen[6], IMAGES[..., -7:, -11:])


@torch.inference_mode()
def test_labels_average_sigmoids():
    model = classifier()
    by_hand = mean_of([model(images).sigmoid() for images in (IMAGES, IMAGES.flip(-1))])
    found = Views(models=[model], target="labels", views="flip")(IMAGES)
    torch.testing.assert_close(found, by_hand.logit())


@torch.inference_mode()
def test_a_segmenters_maps_are_flipped_back():
    model = segmenter()
    by_hand = mean_of([model(IMAGES).softmax(1), model(IMAGES.flip(-1)).softmax(1).flip(-1)])
    found = Views(models=[model], target="mask", views="flip")(IMAGES)
    torch.testing.assert_close(found, by_hand.log())
    assert (found - model(IMAGES).log_softmax(1)).abs().max() > 0.01  # the mirror image said something else


@torch.inference_mode()
def test_a_segmenters_scaled_maps_come_back_to_the_images_size():
    model, answers = segmenter(), []
    for size in ((9, 12), (12, 16), (15, 20)):
        scaled = F.interpolate(IMAGES, size, mode="bilinear", antialias=True)
        for flips in ((), (-1,)):
            answer = model(scaled.flip(flips)).softmax(1).flip(flips)
            answers.append(F.interpolate(answer, (12, 16), mode="bilinear", antialias=True))
    found = Views(models=[model], target="mask", views="flip", scales=[0.75, 1.0, 1.25])(IMAGES)
    torch.testing.assert_close(found, mean_of(answers).log())
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3, 12, 16))


@torch.inference_mode()
def test_every_view_of_a_mask_is_answered_in_windows_of_one_size():
    model, answers, window = segmenter(), [], (7, 9)
    for size in ((12, 16), (18, 24)):
        scaled = F.interpolate(IMAGES, size, mode="bilinear", antialias=True)
        for flips in ((), (-1,)):
            answer = slide(model, scaled.flip(flips), window=window, overlap=0.25).softmax(1).flip(flips)
            answers.append(F.interpolate(answer, (12, 16), mode="bilinear", antialias=True))
    settings = {"models": [model], "target": "mask", "views": "flip", "scales": [1.0, 1.5]}
    found = Views(**settings, window=window, overlap=0.25)(IMAGES)
    torch.testing.assert_close(found, mean_of(answers).log())
    assert (found - Views(**settings)(IMAGES)).abs().max() > 1e-3
    torch.testing.assert_close(Views(**settings, window=(18, 24))(IMAGES), Views(**settings)(IMAGES))


@torch.inference_mode()
def test_a_classifier_sees_scaled_images():
    model = classifier()
    scaled = F.interpolate(IMAGES, (6, 8), mode="bilinear", antialias=True)
    by_hand = mean_of([model(images).softmax(1) for images in (scaled, IMAGES)])
    torch.testing.assert_close(
        Views(models=[model], target="label", scales=[0.5, 1.0])(IMAGES), by_hand.log()
    )


@torch.inference_mode()
@pytest.mark.parametrize("target", ["label", "labels", "mask"])
def test_an_ensemble_is_the_mean_of_its_members(target):
    models = [(segmenter if target == "mask" else classifier)(seed) for seed in range(3)]
    found = Views(models=models, target=target)(IMAGES)
    if target == "labels":
        torch.testing.assert_close(found.sigmoid(), mean_of([m(IMAGES).sigmoid() for m in models]))
    else:
        torch.testing.assert_close(found.exp(), mean_of([m(IMAGES).softmax(1) for m in models]))


@torch.inference_mode()
def test_members_and_views_are_averaged_together():
    models = [classifier(0), classifier(1)]
    by_hand = mean_of([m(x).softmax(1) for m in models for x in (IMAGES, IMAGES.flip(-1))])
    torch.testing.assert_close(Views(models=models, target="label", views="flip")(IMAGES), by_hand.log())


@torch.inference_mode()
@pytest.mark.parametrize("target", ["label", "labels", "mask"])
def test_a_network_that_a_mirror_does_not_change_answers_alike(target):
    model = segmenter() if target == "mask" else classifier()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.copy_((layer.weight + layer.weight.flip(-1)) / 2)
        if isinstance(layer, nn.Linear):  # on a 2 x 2 map of each channel
            weight = layer.weight.view(4, 8, 2, 2)
            layer.weight.copy_(((weight + weight.flip(-1)) / 2).flatten(1))
    found = Views(models=[model], target=target, views="flip")(IMAGES)
    plain = model(IMAGES) if target == "labels" else model(IMAGES).log_softmax(1)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("target", ["label", "labels", "mask"])
def test_a_probability_too_small_for_a_float_keeps_its_logarithm(target):
    class Sure(nn.Module):
        def forward(self, images):
            logits = torch.tensor([0.0, -300.0]).expand(len(images), 2)
            return logits[..., None, None].expand(-1, -1, *images.shape[-2:]) if target == "mask" else logits

    found = Views(models=[Sure()], target=target, views="flip")(IMAGES)
    torch.testing.assert_close(found[:, 1], torch.full_like(found[:, 1], -300.0))
    scaled = Views(models=[Sure()], target=target, scales=[0.5])(IMAGES)
    assert scaled.isfinite().all()


@torch.inference_mode()
@pytest.mark.parametrize("target", ["label", "labels", "mask"])
def test_no_images_and_images_of_one_pixel(target):
    model = segmenter() if target == "mask" else classifier()
    both = Views(models=[model], target=target, views="flip", scales=[0.25, 1.0])
    for batch in (IMAGES[:0], IMAGES[..., :1, :1]):
        assert both(batch).shape == model(batch).shape


def test_half_precision_is_averaged_in_float32():
    model = segmenter()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert model(IMAGES).dtype == torch.bfloat16
        found = Views(models=[model], target="mask", views="flip", scales=[0.5, 1.0])(IMAGES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(1), torch.ones(3, 12, 16))


def test_a_network_of_one_size_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 16, 4))
    message = r"scales=\[0\.5, 1\.0\]: Sequential fails on images of 6 x 8 .*leave scales out"
    with pytest.raises(ValueError, match=message):
        Views(models=[model], target="label", scales=[0.5, 1.0])(IMAGES)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": "tencrop"}, "views=tencrop: none, flip or ten_crop"),
        ({"models": []}, "of no network there is no mean"),
        ({"scales": []}, r"scales=\[\]: one factor or more"),
        ({"scales": [1.0, 0.0]}, r"scales=\[1\.0, 0\.0\]: .* above 0"),
        (
            {"target": "boxes", "views": "flip"},
            "boxes .* cannot be averaged.*weighted box fusion is not built",
        ),
        ({"target": "boxes", "scales": [0.5]}, "boxes .* cannot be averaged"),
        ({"target": "boxes", "models": [nn.Identity(), nn.Identity()]}, "boxes .* cannot be averaged"),
        ({"target": "mask", "views": "ten_crop"}, "views=ten_crop answers for an image, not for its pixels"),
        ({"views": "ten_crop"}, "the run has no data.size"),
        ({"views": "ten_crop", "crop": (8, 8), "scales": [0.5]}, "scales go with views=none and views=flip"),
    ],
)
def test_what_cannot_be_averaged_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Views(**{"models": [nn.Identity()], "target": "label", **settings})
