"""What a task does in a step: losses, parameter groups, and no waiting for the device between log rows."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from composing import composed
from paribus import losses
from paribus.build import build
from paribus.checks import check
from paribus.config import ConfigError
from paribus.data.batches import collate
from paribus.models.backbones import depths
from test_train import TASKS

# Operations whose result the host must wait for on a GPU.
WAITS = {"_local_scalar_dense", "nonzero", "unique_dim", "_unique2", "bincount", "masked_select"}


class Waits(TorchDispatchMode):
    """Counts the operations at which the host would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().split("::")[1].split(".")[0]
        boolean = name in ("index", "index_put_", "index_put") and any(
            isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in (args[1] or ()) if i is not None
        )
        if name in WAITS or boolean:
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def parts(kind: str, *overrides: str):
    built = build(check(composed(*TASKS[kind], *overrides)))
    built.data.open("train")
    batch = collate([built.data.splits["train"][i] for i in range(4)])
    return built.task, built.data.on_after_batch_transfer(batch, 0)


@pytest.mark.parametrize("kind", ["label", "labels", "mask"])
def test_a_training_step_waits_for_nothing(kind):
    task, batch = parts(kind)
    task.train()
    with Waits() as waits:
        task.training_step(batch, 0).backward()
    assert not waits.names


@pytest.mark.parametrize("kind", ["label", "labels", "mask"])
def test_judging_a_batch_waits_for_nothing(kind):
    task, batch = parts(kind)
    task.eval()
    with torch.no_grad():
        task._judge("val", batch)
        with Waits() as waits:
            task._judge("val", batch)
    assert not waits.names


@pytest.mark.parametrize("kind", TASKS)
def test_the_loss_is_the_sum_of_its_parts(kind):
    task, batch = parts(kind)
    task.train()
    loss = task.training_step(batch, 0)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    named = [value for name, value in task.sums.items() if name != "loss"]
    torch.testing.assert_close(task.sums["loss"], sum(named) if named else loss.detach())


def test_label_smoothing_is_the_literatures():
    task, (_, targets, _) = parts("label", "task.label_smoothing=0.1")
    logits = torch.randn(4, 10)
    expected = torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(task.compare(logits, targets)["loss"], expected)


def test_the_backbones_rate_and_the_decay_of_norms():
    task, _ = parts("label", "task.backbone_lr_factor=0.1", "optimizer.lr=0.5", "optimizer.weight_decay=0.2")

    class Trainer:
        estimated_stepping_batches = 10

    task._trainer = Trainer()
    task._fabric = None
    (groups,) = [task.configure_optimizers()["optimizer"].param_groups]
    by_name = {group["name"]: group for group in groups}
    assert by_name["backbone"]["initial_lr"] == pytest.approx(0.05)
    assert by_name["head"]["initial_lr"] == 0.5
    assert by_name["backbone"]["weight_decay"] == 0.2
    assert by_name["backbone_no_decay"]["weight_decay"] == 0


@pytest.mark.parametrize("kind", ["label", "labels", "mask"])
def test_the_judged_loss_is_that_of_the_set(kind):
    """Batches of unequal size count by their samples."""
    task, (images, targets, ids) = parts(kind)
    task.eval()
    with torch.no_grad():
        whole = task.compare(task.predict(images), targets)["loss"]
        for part in (slice(0, 3), slice(3, 4)):
            task._judge("val", (images[part], targets[part], ids[part]))
        torch.testing.assert_close(task.mean_losses["loss"].compute(), whole.double(), rtol=1e-5, atol=1e-6)


def groups_of(task):
    class Trainer:
        estimated_stepping_batches = 10

    task._trainer, task._fabric = Trainer(), None
    return {group["name"]: group for group in task.configure_optimizers()["optimizer"].param_groups}


def test_layer_decay_by_block():
    task, _ = parts(
        "label",
        "backbone=cifar_resnet",
        "backbone.depth=8",
        "task.layer_decay=0.5",
        "task.backbone_lr_factor=0.1",
    )
    groups = groups_of(task)
    # The stem and three blocks: the stem's convolution begins the first stage.
    assert {n: g["initial_lr"] for n, g in groups.items() if not n.endswith("no_decay")} == pytest.approx(
        {"head": 0.001} | {f"backbone_{k}": 0.001 * 0.1 * 0.5**k for k in (1, 2, 3, 4)}
    )
    stem = task.model.backbone.stages[0][0].weight
    assert any(p is stem for p in groups["backbone_4"]["params"])
    last = list(task.model.backbone.parameters())[-1]
    assert any(p is last for p in groups["backbone_1_no_decay"]["params"])


@pytest.mark.parametrize("backbone", ["cifar_resnet", "timm backbone.name=test_efficientnet", "convnet"])
def test_the_first_stages_are_frozen_with_their_statistics(backbone):
    task, (images, targets, ids) = parts("label", *f"backbone={backbone} task.freeze=2".split())
    place = depths(task.model.backbone)
    frozen = {n for n, p in task.model.backbone.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, depth in place.items() if depth < 2}
    assert 0 < len(frozen) < len(place)
    task.train()
    norms = {n: m for n, m in task.model.backbone.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    before = {n: m.running_mean.clone() for n, m in norms.items()}
    task.training_step((images, targets, ids), 0).backward()
    moved = {n for n, m in norms.items() if not torch.equal(m.running_mean, before[n])}
    assert moved == {n for n in norms if f"{n}.weight" not in frozen}


def test_freezing_more_than_there_is():
    with pytest.raises(
        ValueError, match=r"task.freeze=9: none, all, or from 1 to the 3 stages of this backbone"
    ):
        parts("label", "task.freeze=9")


@pytest.mark.parametrize("backbone", ["cifar_resnet", "timm backbone.name=test_efficientnet", "convnet"])
@pytest.mark.parametrize("kind", ["label", "mask"])
@pytest.mark.parametrize("more", ["", "task.freeze=1", "task.freeze=all"])
def test_frozen_batch_norms_neither_move_nor_learn(kind, backbone, more):
    task, batch = parts(kind, *f"backbone={backbone} task.freeze_norm=true {more}".split())
    own = {id(m) for m in task.model.backbone.modules()}
    norms = [m for m in task.model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [{name: value.clone() for name, value in m.state_dict().items()} for m in norms]
    task.train()
    optimizer = torch.optim.SGD([p for p in task.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    task.training_step(batch, 0).backward()
    optimizer.step()
    for norm, values in zip(norms, before, strict=True):
        moved = any(not torch.equal(value, values[name]) for name, value in norm.state_dict().items())
        assert moved == (id(norm) not in own)  # the decoder's learn
    place = depths(task.model.backbone)
    batch_norms = {n for n, m in task.model.backbone.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    for name, parameter in task.model.backbone.named_parameters():
        frozen = (
            more.endswith("all")
            or (bool(more) and place[name] == 0)
            or name.rpartition(".")[0] in batch_norms
        )
        assert parameter.requires_grad == (not frozen)
    assert any(id(norm) not in own for norm in norms) == (kind == "mask")


def test_frozen_batch_norms_stay_frozen_when_the_head_has_learned():
    task, batch = parts("label", "task.head_first=2", "task.freeze_norm=true", "optimizer=momentum")
    task._trainer, task._fabric = Mixed(), None
    task.train()
    task.on_train_start()
    norms = [m for m in task.model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    for step in range(4):
        task.trainer.global_step = step
        task.on_train_batch_start(batch, step)
        task.training_step(batch, step)
        learns = {p.ndim > 1 for p in task.model.backbone.parameters() if p.requires_grad}
        assert learns == (set() if step < 2 else {True})
    assert all(torch.equal(m.running_mean, mean) for m, mean in zip(norms, before, strict=True))


def test_a_backbone_without_batch_norm_has_none_to_freeze():
    with pytest.raises(
        ValueError, match=r"task.freeze_norm=true: this backbone has no batch norm; task.freeze_norm=f"
    ):
        parts("label", "task.freeze_norm=true", "backbone.norm=group")


class Mixed:
    """A trainer that only says where training stands."""

    world_size, estimated_stepping_batches, global_rank = 1, 10, 0

    def __init__(self):
        self.global_step = 0
        total = type("Progress", (), {"processed": 0})
        batch = type("Batches", (), {"total": total})
        epoch = type("Epoch", (), {"batch_progress": batch})
        self.fit_loop = type("Fit", (), {"epoch_loop": epoch})


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("head_first", [4, 0.4])
def test_the_head_learns_first(head_first, processes):
    task, batch = parts("label", f"task.head_first={head_first}", "optimizer=momentum")
    optimizer = torch.optim.SGD(task.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    task._trainer, task._fabric = Mixed(), None
    task.trainer.world_size = processes
    task.train()
    task.on_train_start()

    def weights(module):
        return torch.cat([v.flatten().float() for v in module.state_dict().values()])

    for step in range(6):
        task.trainer.global_step = step
        task.on_train_batch_start(batch, step)
        before = weights(task.model.backbone), weights(task.model.head)
        optimizer.zero_grad()
        task.training_step(batch, step).backward()
        task.on_before_optimizer_step(optimizer)
        optimizer.step()
        assert torch.equal(before[0], weights(task.model.backbone)) == (step < 4)
        assert not torch.equal(before[1], weights(task.model.head))


@pytest.mark.parametrize("value", [-1, 1.0])
def test_a_head_first_that_is_no_share(value):
    with pytest.raises(ValueError, match=r"task.head_first=.*a number of steps \(an integer\) or a share"):
        parts("label", f"task.head_first={value}")


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_images_have_mixed_targets(kind):
    """Each image is a share of two of the batch, and its target the same shares of theirs."""
    task, (_, _, ids) = parts("label", f"task.{kind}=1.0")
    task.train()
    seen = {}

    class Watch(torch.nn.Module):
        def forward(self, images):
            seen["images"] = images
            return images.mean((2, 3))[:, :1] * torch.zeros(10, requires_grad=True)

    targets = torch.arange(4)
    images = torch.nn.functional.one_hot(targets, 4).float()[..., None, None].expand(4, 4, 16, 16).clone()
    task.model = Watch()
    compared = {}
    task.compare = lambda answer, targets: compared.update(targets=targets) or {"loss": answer.sum()}
    torch.manual_seed(0)
    task.losses((images, targets, ids))
    shares = seen["images"].mean((2, 3))
    torch.testing.assert_close(compared["targets"][:, :4], shares)
    assert ((shares > 0).sum(1) == 2).all()
    inside = ((seen["images"] > 0) & (seen["images"] < 1)).any()
    assert bool(inside) == (kind == "mixup")


def test_of_both_mixtures_each_batch_gets_one():
    task, (images, targets, ids) = parts("label", "task.mixup=1.0", "task.cutmix=1.0")
    chosen = []
    for i, mixture in enumerate(task.mixtures):
        task.mixtures[i] = lambda x, t, i=i: chosen.append(i) or (x, t)
        assert mixture.alpha == 1.0
    for seed in range(20):
        torch.manual_seed(seed)
        task.losses((images, targets, ids))
    assert set(chosen) == {0, 1}
    assert len(chosen) == 20


def test_a_mixed_step_waits_for_nothing():
    task, batch = parts("label", "task.mixup=0.2", "task.label_smoothing=0.1")
    task.train()
    task.training_step(batch, 0)
    on_host = Waits()
    with on_host:
        task.training_step(batch, 0).backward()
    # The draws are read, but they were made on the CPU: Beta of two numbers and a choice.
    assert set(on_host.names) <= {"_local_scalar_dense"}


@pytest.mark.parametrize("key", ["mixup=0.2", "cutmix=1.0", "label_smoothing=0.1"])
def test_mixtures_are_for_one_class_an_image(key):
    with pytest.raises(ValueError, match=r"are for one class an image: set them to 0 and null"):
        parts("labels", f"task.{key}")


@pytest.mark.parametrize("key", ["mixup=-1.0", "temperature=0.0", "distillation=2.0"])
def test_numbers_out_of_range(key):
    with pytest.raises(ValueError, match=r"0 or more; temperature=.*: above 0; distillation=.*: from 0 to 1"):
        parts("label", f"task.{key}")


def test_distillation_is_hintons_loss():
    task, batch = parts("label", "task.temperature=3.0", "task.distillation=0.7")
    images, targets, _ = batch
    teacher = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(10))
    with torch.no_grad():
        wanted = teacher(images)
    task.teacher = [teacher.eval().requires_grad_(False)]
    task.eval()
    logits = task.model(images)
    p, q = (wanted / 3).softmax(1), (logits / 3).softmax(1)
    found = task.losses(batch)
    torch.testing.assert_close(found["distillation"], 0.7 * 9 * (p * (p / q).log()).sum(1).mean())
    torch.testing.assert_close(
        found["cross_entropy"], 0.3 * torch.nn.functional.cross_entropy(logits, targets)
    )
    assert not any("teacher" in name for name in task.state_dict())


def test_auxiliary_classifiers_weigh_a_third():
    task, batch = parts("label", "task.auxiliary_weight=0.3")
    first, second = torch.randn(4, 10), torch.randn(4, 10)
    model, targets = task.model, batch[1]

    class Three(torch.nn.Module):
        backbone = model.backbone

        def forward(self, images):
            return model(images), first, second

    task.model = Three()
    task.eval()
    found = task.losses(batch)
    expected = sum(torch.nn.functional.cross_entropy(x, targets) for x in (first, second))
    torch.testing.assert_close(found["auxiliary"], 0.3 * expected)
    assert found.keys() == {"cross_entropy", "auxiliary"}


# --- masks -----------------------------------------------------------------------------------------

ALL_PARTS = [f"task.loss.{name}={weight}" for name, weight in (("focal", 0.5), ("dice", 2), ("lovasz", 1))]


def masked(*overrides: str):
    """A segmentation task and a batch of which a part is ignored."""
    task, (images, targets, ids) = parts("mask", *overrides)
    targets = targets.clone()
    targets[:, :9] = 255
    return task, (images, targets, ids)


@pytest.mark.parametrize(
    "overrides",
    [ALL_PARTS, ["task.hardest=0.25", "task.label_smoothing=0.1"], ["task.class_weights=median_frequency"]],
    ids=["all parts", "hardest", "weights"],
)
def test_a_step_on_masks_waits_for_nothing(overrides):
    task, batch = masked("task.boundary_f1=true", *overrides)
    task.train()
    with Waits() as waits:
        task.training_step(batch, 0).backward()
    assert not waits.names
    task.eval()
    with torch.no_grad():
        task._judge("val", batch)
        with Waits() as waits:
            task._judge("val", batch)
    assert not waits.names


def test_a_loss_of_several_parts_is_their_weighted_sum():
    task, (images, targets, ids) = masked(*ALL_PARTS, "task.focal_gamma=3.0", "task.label_smoothing=0.1")
    task.train()
    logits = torch.randn(4, 11, *images.shape[-2:])
    expected = {
        "cross_entropy": losses.cross_entropy(logits, targets, smoothing=0.1),
        "focal": 0.5 * losses.focal(logits, targets, gamma=3.0),
        "dice": 2 * losses.dice(logits, targets),
        "lovasz": losses.lovasz(logits, targets),
    }
    found = task.compare(logits, targets)
    torch.testing.assert_close(found, {"loss": sum(expected.values()), **expected})
    loss = task.training_step((images, targets, ids), 0)
    assert list(task.sums) == ["loss", *expected]
    torch.testing.assert_close(loss.detach(), sum(task.sums[name] for name in expected))


@pytest.mark.parametrize("name", ["focal", "dice", "lovasz"])
def test_a_single_part_is_the_loss(name):
    task, batch = masked("task.loss.cross_entropy=0", f"task.loss.{name}=0.5")
    task.train()
    task.training_step(batch, 0)
    assert list(task.sums) == ["loss"]
    logits = torch.randn(4, 11, *batch[1].shape[-2:])
    found = task.compare(logits, batch[1])
    torch.testing.assert_close(found, {"loss": 0.5 * getattr(losses, name)(logits, batch[1])})


def test_class_weights_and_the_hardest_pixels_reach_the_loss():
    task, (_, targets, _) = masked("task.class_weights=inverse_frequency", "task.loss.focal=1")
    task.class_weights.copy_(torch.arange(11.0))
    logits = torch.randn(4, 11, *targets.shape[-2:])
    weighted = {"class_weights": torch.arange(11.0)}
    found = task.compare(logits, targets)
    torch.testing.assert_close(found["cross_entropy"], losses.cross_entropy(logits, targets, **weighted))
    torch.testing.assert_close(found["focal"], losses.focal(logits, targets, **weighted))
    task, _ = masked("task.hardest=0.1")
    expected = losses.cross_entropy(logits, targets, hardest=0.1)
    torch.testing.assert_close(task.compare(logits, targets)["loss"], expected)


def test_without_class_weights_the_checkpoint_is_as_it_was():
    assert "class_weights" not in masked()[0].state_dict()
    assert masked("task.class_weights=median_frequency")[0].state_dict()["class_weights"].shape == (11,)


@pytest.mark.parametrize("overrides", [[], ALL_PARTS], ids=["one part", "four parts"])
def test_auxiliary_masks_weigh_two_fifths(overrides):
    task, batch = masked(*overrides)
    others = [torch.randn(4, 11, *batch[1].shape[-2:]) for _ in range(2)]
    model = task.model

    class Three(torch.nn.Module):
        backbone = model.backbone

        def forward(self, images):
            return (model(images), *others) if self.training else model(images)

    task.model = Three()
    task.train()
    found = task.losses(batch)
    expected = 0.4 * sum(task.compare(other, batch[1])["loss"] for other in others)
    torch.testing.assert_close(found["auxiliary"], expected)
    assert len(found) == 2 + len(overrides)
    task.training_step(batch, 0)
    torch.testing.assert_close(task.sums["loss"], sum(task.sums[name] for name in found))
    task.eval()
    with torch.no_grad():
        task._judge("val", batch)
    assert "auxiliary" not in task.mean_losses


@pytest.mark.parametrize("overrides", [[], [*ALL_PARTS, "task.hardest=0.5"]], ids=["one part", "four parts"])
def test_a_batch_of_ignored_pixels_moves_nothing(overrides):
    task, (images, targets, ids) = masked(*overrides)
    task.train()
    loss = task.training_step((images, torch.full_like(targets, 255), ids), 0)
    loss.backward()
    assert loss == 0
    gradients = [p.grad for p in task.model.parameters()]
    assert all(g is not None and not g.any() for g in gradients)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["loss.cross_entropy=0"],
            r"task.loss=\{'cross_entropy': 0, .*: weights of cross_entropy, focal, dice, lovasz, none below",
        ),
        (["loss.dice=-1"], r"task.loss=\{.*'dice': -1.*\}: weights of .*, none below 0"),
        (["focal_gamma=-1.0"], r"task.focal_gamma=-1.0: 0 or more"),
        (["auxiliary_weight=-0.1"], r"task.auxiliary_weight=-0.1: 0 or more"),
        (["hardest=0.0"], r"task.hardest=0.0: a share of the pixels, above 0 and at most 1, or null"),
        (["loss.cross_entropy=0", "loss.dice=1", "hardest=0.5"], r"are of cross-entropy: task.loss.cross_en"),
        (["loss.cross_entropy=0", "loss.focal=1", "label_smoothing=0.1"], r"are of cross-entropy: task.loss"),
        (
            ["loss.cross_entropy=0", "loss.dice=1", "class_weights=median_frequency"],
            r"class_weights=median_frequency are of cross-entropy and focal: .*, or none",
        ),
    ],
)
def test_losses_of_masks_that_cannot_be(overrides, message):
    with pytest.raises(ValueError, match=message):
        parts("mask", *(f"task.{override}" for override in overrides))


@pytest.mark.parametrize("override", ["+task.loss.huber=1", "task.loss.dice=much", "task.class_weights=some"])
def test_losses_of_masks_that_are_not_there(override):
    with pytest.raises(ConfigError, match=r"`task\.(loss|class_weights)=.*input should be"):
        parts("mask", override)
