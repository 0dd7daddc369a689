"""How wrong an image is answered, by numpy; what is drawn is in test_predict.py, with runs that judge."""

import numpy as np
import pytest
import torch

from paribus.data.transforms import Transform
from paribus.examples import faults, taken


def test_the_fault_of_a_label_is_its_cross_entropy():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]], dtype=torch.bfloat16)
    found = faults(logits, torch.tensor([2, 0]), "label")
    exp = np.exp([2.0, 0.0, -1.0])
    assert found.tolist() == pytest.approx([-np.log(exp[2] / exp.sum()), np.log(3)])


def test_the_fault_of_labels_is_the_mean_over_those_judged():
    logits = torch.tensor([[0.0, 5.0], [1.0, -2.0], [3.0, 3.0]])
    targets = torch.tensor([[1.0, float("nan")], [1.0, 0.0], [float("nan")] * 2])
    found = faults(logits, targets, "labels")
    by_hand = [np.log(2), (np.log1p(np.exp(-1)) + np.log1p(np.exp(-2))) / 2, 0.0]
    assert found.tolist() == pytest.approx(by_hand)


def test_the_fault_of_a_mask_is_its_share_of_wrong_pixels():
    target = torch.tensor([[0, 1], [255, 2]])
    decision = torch.tensor([[0, 0], [0, 2]])
    assert faults([decision], [target], "mask").tolist() == pytest.approx([1 / 3])
    both = torch.stack([decision, decision]), torch.stack([target, torch.full_like(target, 255)])
    assert faults(*both, "mask").tolist() == pytest.approx([1 / 3, 0])  # all ignored: no fault
    unequal = [decision, torch.zeros(3, 5, dtype=torch.int64)], [target, torch.ones(3, 5, dtype=torch.int64)]
    assert faults(*unequal, "mask").tolist() == pytest.approx([1 / 3, 1])


class Judged:
    """What is asked of a data module."""

    target, mean, scale = "mask", torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    eval_transform = Transform(target="mask", size=(4, 6), fit="pad", native=True)


def boxes(*corners, **more):
    found = {"boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)}
    return found | {"labels": torch.zeros(len(corners), dtype=torch.int64)} | more


def test_the_fault_of_boxes_is_how_many_are_missed_or_wrong():
    truth = boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10))
    found = boxes((0, 0, 10, 10), (0, 0, 10, 10), (20, 0, 30, 4), scores=torch.tensor([0.9, 0.8, 0.29]))
    nothing = boxes(scores=torch.zeros(0))
    judged = {"judged": {key: value.numpy() for key, value in truth.items()}, **boxes((0, 0, 1, 1))}
    assert faults([found, nothing, found], [truth, boxes(), judged], "boxes").tolist() == [3, 0, 3]


def test_images_of_boxes_come_back_to_their_size():
    class OfBoxes(Judged):
        target, eval_transform = "boxes", Transform(target="boxes", size=(4, 4), fit="crop", native=True)

    image = torch.full((1, 3, 4, 4), 200.0)
    target = boxes((1, 1, 3, 3)) | {
        "judged": {"boxes": np.array([[4.0, 2, 8, 6]]), "size": np.array([8, 16])}
    }
    (example,) = taken((image, [target], ["a"]), [boxes((4, 2, 8, 6), scores=torch.ones(1))], OfBoxes, [0])
    assert example.image.shape == (8, 16, 3)
    assert (example.image[:, 6:10] == 200).all()
    assert (example.image[:, :3] == 0).all()  # cut off, unseen
    assert example.truth["boxes"].tolist() == example.answer["boxes"].tolist() == [[4, 2, 8, 6]]


def test_images_of_native_masks_come_back_to_their_size():
    images = torch.zeros(2, 3, 4, 6)
    images[1, :, :, :4] = 200  # of 8 x 8 pixels: 4 x 4, and two columns of filling
    targets = [torch.zeros(5, 5).long(), torch.zeros(8, 8).long()]
    (example,) = taken((images, targets, ["a", "b"]), targets, Judged, [1])
    assert example.image.shape == (8, 8, 3)
    assert (example.image == 200).all()
    assert example.truth.shape == example.answer.shape == (8, 8)
    assert example.id == "b"
