"""How much of the objects proposals cover, by hand."""

import pytest
import torch

from paribus.metrics import WeightedMean, recalls

# IoU with the object [0, 0, 10, 10]: 1, 0.6, 0.5, 0.2
EXACT, SIX, HALF, FIFTH = [0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 5], [0, 0, 10, 2]


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def test_of_one_image():
    target = {"boxes": boxes(EXACT, [20, 20, 30, 30])}
    found = recalls([boxes(FIFTH, SIX, [20, 20, 30, 27.2])], [target])
    assert set(found) == {f"proposal_{kind}_{n}" for kind in ("recall", "ar") for n in (100, 300, 1000)}
    assert all(count == 2 for _, count in found.values())
    for n in (100, 300, 1000):
        assert float(found[f"proposal_recall_{n}"][0]) == 1.0
        # 0.6 counts at 0.5, 0.55 and 0.6; 0.72 at these and at 0.65 and 0.7
        assert float(found[f"proposal_ar_{n}"][0]) == pytest.approx((3 + 5) / 20)


def test_half_is_enough():
    found = recalls([boxes(HALF)], [{"boxes": boxes(EXACT)}])
    assert float(found["proposal_recall_100"][0]) == 1.0
    assert float(found["proposal_ar_100"][0]) == pytest.approx(0.1)


def test_only_the_first_count():
    late = torch.cat([boxes(FIFTH).expand(100, 4), boxes(SIX), boxes(FIFTH).expand(199, 4), boxes(EXACT)])
    found = recalls([late], [{"boxes": boxes(EXACT)}])
    values = {name: float(value) for name, (value, _) in found.items()}
    assert values["proposal_recall_100"] == 0
    assert values["proposal_recall_300"] == 1
    assert values["proposal_ar_100"] == 0
    assert values["proposal_ar_300"] == pytest.approx(0.3)
    assert values["proposal_ar_1000"] == 1


def test_one_proposal_covers_several_objects():
    target = {"boxes": boxes(EXACT, [0, 0, 10, 9])}
    assert float(recalls([boxes(EXACT)], [target])["proposal_recall_100"][0]) == 1.0


def test_images_without_objects_or_proposals():
    nothing = {"boxes": torch.zeros(0, 4)}
    found = recalls([boxes(EXACT), boxes()], [nothing, nothing])
    assert all((float(value), count) == (0.0, 0) for value, count in found.values())
    found = recalls([boxes(), boxes(EXACT)], [{"boxes": boxes(EXACT)}, nothing])
    assert all((float(value), count) == (0.0, 1) for value, count in found.values())


def test_a_set_is_weighed_by_objects_not_by_images():
    """1 of 1, and 0 of 3: a quarter."""
    mean = WeightedMean()
    whole = [boxes(EXACT), boxes(FIFTH)], [{"boxes": boxes(EXACT)}, {"boxes": boxes(EXACT, EXACT, EXACT)}]
    for proposals, target in zip(*whole, strict=True):
        value, count = recalls([proposals], [target])["proposal_recall_100"]
        mean.update(value, count)
    assert float(mean.compute()) == 0.25
    assert float(recalls(*whole)["proposal_recall_100"][0]) == 0.25
