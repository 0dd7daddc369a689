"""What every detector inherits."""

import pytest
import torch

from paribus.models.detection.detector import Detector, Seen


class Draws(Detector):
    """Its loss is a random number; it finds as many boxes as an image has proposals."""

    def see(self, images, proposals=None):
        return Seen(images, [2 * images], (4, 3), proposals, {"mean": images.mean((1, 2, 3))})

    def losses(self, seen, targets):
        return {"box": torch.rand(()) + seen.outputs["mean"].sum(), "objects": torch.tensor(len(targets))}

    def detections(self, seen):
        return [{"boxes": boxes} for boxes in seen.proposals]


PROPOSALS = [torch.zeros(n, 4) for n in (1, 2, 3)]


def test_one_image_of_a_batch():
    seen = Draws().see(torch.arange(9.0).view(3, 3, 1, 1).expand(3, 3, 4, 4), PROPOSALS)
    one = seen.one(1)
    assert one.size == (4, 3)
    assert torch.equal(one.images, seen.images[1:2])
    assert torch.equal(one.maps[0], seen.maps[0][1:2])
    assert torch.equal(one.outputs["mean"], seen.outputs["mean"][1:2])
    assert [len(boxes) for boxes in one.proposals] == [2]
    assert seen._replace(proposals=None).one(0).proposals is None


def test_judged_draws_the_same_for_every_image_and_leaves_the_generator():
    model = Draws().eval()
    torch.manual_seed(5)
    found, losses = model.judged(torch.zeros(3, 3, 4, 4), [{}] * 3, PROPOSALS)
    after = torch.rand(())
    torch.manual_seed(5)
    assert torch.equal(torch.rand(()), after)
    assert [len(f["boxes"]) for f in found] == [1, 2, 3]
    assert len({float(one["box"]) for one in losses}) == 1
    assert [int(one["objects"]) for one in losses] == [1, 1, 1]


def test_training_needs_targets():
    with pytest.raises(AssertionError, match="learns from boxes"):
        Draws()(torch.zeros(1, 3, 4, 4))
