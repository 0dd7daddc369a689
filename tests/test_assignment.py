import pytest
import torch

from boxes import EMPTY
from paribus.models.detection.assignment import assign, near, padded
from waits import Waits


def objects(*counts):
    return [
        {"boxes": torch.rand(n, 4), "labels": torch.arange(n)}
        if n
        else dict(EMPTY, labels=torch.zeros(0).long())
        for n in counts
    ]


def assigned(cost, iou, candidates=None, top=10):
    """Of one image, lists of M lists of A numbers; the object of each cell, None where it learns none."""
    cost, iou = torch.tensor([cost]).float(), torch.tensor([iou]).float()
    candidates = torch.ones_like(cost).bool() if candidates is None else torch.tensor([candidates]).bool()
    positive, held = assign(cost=cost, iou=iou, candidates=candidates, top=top)
    assert positive.shape == held.shape == cost.shape[::2]
    assert (held[~positive] == 0).all()
    return [int(o) if p else None for p, o in zip(positive[0], held[0], strict=True)]


def test_objects_as_a_table():
    targets = objects(2, 0, 9)
    table = padded(targets)
    assert table.boxes.shape == (3, 16, 4)
    assert table.real.sum(1).tolist() == [2, 0, 9]
    for i, target in enumerate(targets):
        n = len(target["labels"])
        assert torch.equal(table.boxes[i, :n], target["boxes"])
        assert torch.equal(table.labels[i, :n], target["labels"])
        assert table.real[i, :n].all()
        assert not table.boxes[i, n:].any()
        assert not table.labels[i, n:].any()
    assert (table.boxes.dtype, table.labels.dtype, table.real.dtype) == (
        torch.float32,
        torch.int64,
        torch.bool,
    )


@pytest.mark.parametrize(("counts", "length"), [((0, 0), 8), ((1,), 8), ((8, 2), 8), ((0, 17), 24)])
def test_few_lengths(counts, length):
    assert padded(objects(*counts)).real.shape == (len(counts), length)


def test_candidates_are_the_cells_around_the_center_of_each_level():
    centers = torch.cartesian_prod(torch.arange(8) + 0.5, torch.arange(8) + 0.5).flip(1) * 4
    coarse = torch.cartesian_prod(torch.arange(4) + 0.5, torch.arange(4) + 0.5).flip(1) * 8
    strides = torch.cat([torch.full((64,), 4.0), torch.full((16,), 8.0)])
    boxes = torch.tensor([[[12.0, 8, 15, 27], [0, 0, 2, 2]]])  # centers (13.5, 17.5), (1, 1)
    found = near(boxes, torch.cat([centers, coarse]), strides, 1.5)
    assert found.shape == (1, 2, 80)
    fine = found[0, 0, :64].reshape(8, 8)
    assert [tuple(i) for i in fine.nonzero().tolist()] == [(y, x) for y in (3, 4, 5) for x in (2, 3, 4)]
    assert found[0, :, 64:].sum(1).tolist() == [9, 4]  # at the image's corner fewer
    assert found[0, 1, :64].sum() == 4


@pytest.mark.parametrize(
    ("iou", "top", "k"),
    [
        ([0.9, 0.8, 0.7, 0.0, 0.0], 10, 2),  # 2.4, rounded down
        ([0.9, 0.8, 0.7, 0.7, 0.0], 10, 3),
        ([0.9, 0.8, 0.7, 0.7, 0.0], 2, 1),  # of the two best
        ([0.1, 0.1, 0.0, 0.0, 0.0], 10, 1),  # one at least
        ([0.0] * 5, 10, 1),
        ([1.0] * 5, 10, 5),
        ([1.0] * 5, 3, 3),
    ],
)
def test_an_object_has_as_many_cells_as_its_ious_add_up_to(iou, top, k):
    cost = [[0.3, 0.1, 0.5, 0.2, 0.4]]
    order = [1, 3, 0, 4, 2]
    assert assigned(cost, [iou], top=top) == [0 if i in order[:k] else None for i in range(5)]


def test_only_candidates_count_and_are_taken():
    cost, iou = [[0.0, 0.1, 0.2, 0.3]], [[1.0, 1.0, 0.6, 0.5]]
    assert assigned(cost, iou, [[False, False, True, True]]) == [None, None, 0, None]
    assert assigned(cost, [[1.0] * 4], [[False, False, False, True]]) == [None, None, None, 0]
    assert assigned(cost, iou, [[False] * 4]) == [None] * 4


def test_a_contested_cell_goes_where_it_costs_less():
    iou = [[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]
    assert assigned([[1.0, 5.0, 9.0], [9.0, 4.0, 1.0]], iou) == [0, 1, 1]
    assert assigned([[1.0, 4.0, 9.0], [9.0, 5.0, 1.0]], iou) == [0, 0, 1]


def test_the_best_cell_of_an_object_goes_to_none_that_has_a_better_one():
    iou = [[1.0, 1.0], [0.0, 0.5]]
    assert assigned([[0.1, 0.2], [9.0, 5.0]], iou) == [0, 1]


def test_two_objects_at_one_place_share_its_cells():
    iou = [[0.9] * 4, [0.9] * 4]
    assert assigned([[1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]], iou) == [0, 1, 0, 1]


def by_hand(cost, iou, candidates, top):
    """The same for one image, object by object and cell by cell."""
    taken = {}
    for m in range(len(cost)):
        allowed = [a for a in range(len(cost[m])) if candidates[m][a]]
        k = max(1, int(sum(sorted((iou[m][a] for a in allowed), reverse=True)[:top])))
        for rank, a in enumerate(sorted(allowed, key=lambda a: cost[m][a])[:k]):
            taken.setdefault(a, []).append((rank > 0, cost[m][a], m))
    return [min(taken[a])[2] if a in taken else None for a in range(len(cost[0]))]


def test_equal_to_a_loop():
    generator = torch.Generator().manual_seed(0)
    several = 0
    for case in range(40):
        # Quarters, so that sums of IoUs are exact.
        iou = torch.randint(0, 5, (6, 30), generator=generator) / 4
        cost = torch.rand(6, 30, generator=generator)
        candidates = torch.rand(6, 30, generator=generator) < 0.4
        candidates[case % 6] = False  # of the padding
        found = assigned(cost.tolist(), iou.tolist(), candidates.tolist(), top=5)
        assert found == by_hand(cost.tolist(), iou.tolist(), candidates.tolist(), top=5)
        several += len(set(found) - {None}) > 1
    assert several == 40


def test_images_of_a_batch_are_assigned_each_by_itself():
    generator = torch.Generator().manual_seed(0)
    cost, iou = torch.rand(3, 5, 20, generator=generator), torch.rand(3, 5, 20, generator=generator)
    candidates = torch.rand(3, 5, 20, generator=generator) < 0.5
    whole = assign(cost=cost, iou=iou, candidates=candidates, top=4)
    for i in range(3):
        one = assign(cost=cost[i : i + 1], iou=iou[i : i + 1], candidates=candidates[i : i + 1], top=4)
        assert all(torch.equal(a[i], b[0]) for a, b in zip(whole, one, strict=True))


def test_nothing_waits_for_the_device():
    targets = objects(3, 0)
    with Waits() as waits:
        table = padded(targets)
        centers, strides = torch.rand(50, 2), torch.full((50,), 0.5)
        candidates = near(table.boxes, centers, strides, 1.5) & table.real[..., None]
        found = assign(cost=torch.rand(2, 8, 50), iou=torch.rand(2, 8, 50), candidates=candidates, top=10)
    assert waits.found == []
    assert found.positive[0].any()
    assert not found.positive[1].any()
