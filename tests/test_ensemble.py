"""Members train as if each were alone, and answer with the mean of their probabilities."""

import copy

import pytest
import torch
import torch.nn.functional as F

from composing import composed
from paribus.build import build
from paribus.checks import check
from paribus.config import ConfigError
from paribus.models.backbones.convnet import ConvNet
from paribus.models.classifier import Classifier
from paribus.models.ensemble import Ensemble
from paribus.results import read_json
from paribus.tasks import Classification
from paribus.views import Views
from test_evaluate import judged
from test_train import TASKS, train


def classifiers(number: int) -> list[Classifier]:
    torch.manual_seed(0)
    return [
        Classifier(backbone=ConvNet(channels=[4, 8], norm="batch"), num_classes=3).train()
        for _ in range(number)
    ]


@pytest.mark.parametrize("target", ["label", "labels"])
def test_every_member_learns_as_if_it_were_alone(target):
    members = classifiers(3)
    alone = copy.deepcopy(members)
    images = torch.randn(5, 3, 16, 16)
    targets = torch.tensor([0, 1, 2, 1, 0])
    wanted = targets if target == "label" else F.one_hot(targets, 3).float()
    loss = F.cross_entropy if target == "label" else F.binary_cross_entropy_with_logits
    ensemble = Ensemble(members, target=target)
    joint = loss(ensemble(images.repeat(3, 1, 1, 1)), torch.cat([wanted] * 3))
    joint.backward()
    losses = []
    for model in alone:
        losses.append(loss(model(images), wanted))
        losses[-1].backward()
    assert joint.item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-6)
    for member, model in zip(members, alone, strict=True):
        for (name, ours), theirs in zip(member.named_parameters(), model.parameters(), strict=True):
            assert torch.allclose(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6), name
        for ours, theirs in zip(member.buffers(), model.buffers(), strict=True):
            assert torch.equal(ours, theirs)  # the batch statistics are of its own batch


@pytest.mark.parametrize("target", ["label", "labels"])
def test_the_answer_is_the_mean_of_the_probabilities(target):
    members = classifiers(3)
    ensemble = Ensemble(members, target=target).eval()
    images = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        found, wanted = ensemble(images), Views(models=members, target=target)(images)
    assert torch.allclose(found, wanted, atol=1e-6)
    squash = torch.sigmoid if target == "labels" else lambda x: x.softmax(1)
    with torch.no_grad():
        mean = torch.stack([squash(member(images)) for member in members]).mean(0)
    assert torch.allclose(squash(found), mean, atol=1e-6)


def test_members_have_first_weights_of_their_own():
    task = build(check(composed("members=2"))).task
    one, other = task.model.members
    assert isinstance(task, Classification)
    assert not torch.equal(one.head.weight, other.head.weight)
    kernels = [next(p for p in m.backbone.parameters() if p.ndim == 4) for m in (one, other)]
    assert not torch.equal(*kernels)
    # and the first is what it is alone
    torch.manual_seed(7)
    alone = build(check(composed())).task.model
    torch.manual_seed(7)
    together = build(check(composed("members=2"))).task.model.members[0]
    first = alone.state_dict()
    assert all(torch.equal(value, first[name]) for name, value in together.state_dict().items())


def test_an_ensemble_trains_and_is_judged_again(tmp_path):
    trained = train(tmp_path / "run", *TASKS["label"], "members=3", "task.mixup=0.2", "task.head_first=2")
    single = train(tmp_path / "one", *TASKS["label"])
    assert trained.result["parameters"] == 3 * single.result["parameters"]
    assert trained.result["macs"] == 3 * single.result["macs"]
    found = judged(tmp_path / "run")
    assert found == {name: value for name, value in trained.metrics.items() if name.startswith("test/")}


def test_views_are_what_the_run_is_judged_by(tmp_path):
    plain = train(tmp_path / "plain", *TASKS["label"])
    trained = train(tmp_path / "run", *TASKS["label"], "views=ten_crop")
    tested = {name: value for name, value in trained.metrics.items() if name.startswith("test/")}
    assert judged(tmp_path / "run") == tested
    written = read_json(tmp_path / "run" / "evaluation_test.json")
    assert "views" not in written  # as trained
    # Training itself is the same: what it answers to one view, and what the plain run answers to ten.
    assert judged(tmp_path / "run", "views=none")["test/loss"] == plain.metrics["test/loss"]
    assert read_json(tmp_path / "run" / "evaluation_test_none.json")["views"] == "none"
    assert judged(tmp_path / "plain", "views=ten_crop")["test/loss"] == tested["test/loss"]
    assert tested["test/loss"] != plain.metrics["test/loss"]
    assert trained.result["macs"] == 10 * plain.result["macs"]  # crops of the size trained on


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["members=0"], "1 or more"),
        (["members=2", "task=segmentation", "model=unet"], "of classifiers only"),
        (["members=2", "task.freeze=all"], "task.freeze=none"),
        (["members=2", "task.layer_decay=0.8"], "task.layer_decay=1.0"),
        (["views=twelve"], "none, flip or ten_crop"),
        (["views=flip", "task=detection", "model=fcos"], "one run at a time"),
        (["views=ten_crop", "task=segmentation", "model=unet"], "not for its pixels"),
        (["views=ten_crop", "data.size=null", "data.reader.size=32"], "no data.size"),
    ],
)
def test_what_cannot_be_averaged_is_said_before_anything_is_read(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(composed(*overrides))


def test_masks_have_no_ensemble():
    with pytest.raises(ValueError, match="of classifiers, and here is `mask`"):
        Ensemble(classifiers(2), target="mask")
