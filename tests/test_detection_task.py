"""What the task of boxes hands to models and metrics."""

import numpy as np
import pytest
import torch

from paribus.data.samples import Sample
from paribus.data.transforms import Transform
from paribus.tasks.detection import _learned, restored


def target(boxes, **more):
    return {
        "boxes": np.array(boxes, np.float32).reshape(-1, 4),
        "labels": np.zeros(len(boxes), np.int64),
        **more,
    }


@pytest.mark.parametrize("fit", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("size", [(40, 60), (48, 48), None])
def test_what_is_found_is_brought_back_as_by_numpy(fit, size):
    transform = Transform(target="boxes", size=size, fit=fit, native=True)
    sizes = [(100, 60), (40, 60), (33, 200)]
    boxes = [torch.rand(n, 4, generator=torch.Generator().manual_seed(n)) * 70 - 5 for n in (5, 0, 2)]
    found = [{"boxes": b, "scores": b[:, 0], "labels": b[:, 0].long()} for b in boxes]
    back = restored(found, [{"size": np.array(s)} for s in sizes], transform)
    for one, before, original in zip(back, boxes, sizes, strict=True):
        assert (one["boxes"].numpy() == transform.restore_boxes(before.numpy(), original)).all()
        assert one["scores"] is not None
    assert (boxes[0] == found[0]["boxes"]).all()  # what was found stays what it was


def test_masks_come_back_with_their_boxes():
    transform = Transform(target="boxes", size=(20, 30), fit="pad", native=True)
    mask = torch.zeros(1, 20, 30, dtype=torch.bool)
    mask[0, 5:10, 10:20] = True
    found = {"boxes": torch.tensor([[10.0, 5, 20, 10]]), "masks": mask}
    (back,) = restored([found], [{"size": np.array([80, 120])}], transform)
    assert back["boxes"].tolist() == [[40, 20, 80, 40]]
    expected = torch.zeros(1, 80, 120, dtype=torch.bool)
    expected[0, 20:40, 40:80] = True
    assert back["masks"].dtype == torch.bool
    assert (back["masks"] ^ expected).sum() <= 8  # rounded corners
    (none,) = restored(
        [{"boxes": torch.zeros(0, 4), "masks": torch.zeros(0, 20, 30)}],
        [{"size": np.array([80, 120])}],
        transform,
    )
    assert none["masks"].shape == (0, 80, 120)


def test_where_the_crop_has_cut_there_is_no_mask():
    transform = Transform(target="boxes", size=(20, 20), fit="crop", native=True)
    found = {"boxes": torch.tensor([[0.0, 0, 20, 20]]), "masks": torch.ones(1, 20, 20)}
    (back,) = restored([found], [{"size": np.array([20, 60])}], transform)
    assert back["boxes"].tolist() == [[20, 0, 40, 20]]
    assert back["masks"][0].nonzero()[:, 1].unique().tolist() == list(range(20, 40))


def test_in_evaluation_the_files_own_objects_come_along():
    """All of them, those too that the crop has cut off."""
    image = np.zeros((20, 60, 3), np.uint8)
    given = target([[0, 0, 5, 5], [25, 5, 35, 15]], area=np.array([20, 90], np.float32))
    sample = Sample(image, given, "a.jpg")
    seen = Transform(target="boxes", size=(20, 20), fit="crop", native=True)(sample, None).target
    assert seen["boxes"].tolist() == [[5, 5, 15, 15]]
    assert seen["judged"]["boxes"] is given["boxes"]
    assert seen["judged"]["area"].tolist() == [20, 90]
    assert seen["judged"]["size"].tolist() == [20, 60]
    trained = Transform(target="boxes", size=(20, 20), fit="crop")(sample, 7).target
    assert trained.keys() == given.keys()
    assert given.keys() == {"boxes", "labels", "area"}


def test_crowds_and_what_is_only_judged_are_not_learned():
    given = {key: torch.tensor(value) for key, value in target([[0, 0, 5, 5], [1, 1, 9, 9]]).items()}
    plain = given | {"judged": {}, "proposals": torch.zeros(7, 4)}
    assert _learned(plain).keys() == given.keys()
    crowd = _learned(plain | {"iscrowd": torch.tensor([1, 0])})
    assert crowd["boxes"].tolist() == [[1, 1, 9, 9]]
    assert len(crowd["labels"]) == 1
