"""Schedules equal torch's; parameter groups; every optimizer and scheduler YAML builds and works."""

import importlib
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from torch.optim import lr_scheduler

from paribus.optimizers import Constant, Cosine, MultiStep, OneCycle, Polynomial, Step, parameter_groups

CONF = Path(__file__).parents[1] / "conf"
TOTAL = 100


def torch_rates(make, steps=TOTAL, base=1.0):
    """The rates of a torch scheduler at the steps 0 .. steps - 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=base)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def factors(schedule, total=TOTAL):
    return [schedule(step, total) for step in range(total)]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (Step(every=30), lambda o: lr_scheduler.StepLR(o, 30)),
        (Step(every=0.3, factor=0.5), lambda o: lr_scheduler.StepLR(o, 30, gamma=0.5)),
        (MultiStep(milestones=[50, 75]), lambda o: lr_scheduler.MultiStepLR(o, [50, 75])),
        (
            MultiStep(milestones=[0.5, 0.75], factor=0.2),
            lambda o: lr_scheduler.MultiStepLR(o, [50, 75], gamma=0.2),
        ),
        (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL)),
        (Cosine(final=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.1)),
        (Polynomial(power=0.9), lambda o: lr_scheduler.PolynomialLR(o, TOTAL, power=0.9)),
        (Polynomial(power=2.0), lambda o: lr_scheduler.PolynomialLR(o, TOTAL, power=2.0)),
        (OneCycle(), lambda o: lr_scheduler.OneCycleLR(o, 1.0, TOTAL, cycle_momentum=False)),
        (
            OneCycle(warmup=0.125, warmup_start=0.1, final=0.01),
            lambda o: lr_scheduler.OneCycleLR(
                o, 1.0, TOTAL, pct_start=0.125, div_factor=10, final_div_factor=10, cycle_momentum=False
            ),
        ),
        (
            Cosine(warmup=10, warmup_start=0.2),
            lambda o: lr_scheduler.SequentialLR(
                o,
                [lr_scheduler.LinearLR(o, 0.2, 1.0, 10), lr_scheduler.CosineAnnealingLR(o, TOTAL - 10)],
                [10],
            ),
        ),
        (
            Polynomial(warmup=0.25, warmup_start=0.01),
            lambda o: lr_scheduler.SequentialLR(
                o,
                [lr_scheduler.LinearLR(o, 0.01, 1.0, 25), lr_scheduler.PolynomialLR(o, TOTAL - 25, 0.9)],
                [25],
            ),
        ),
        (
            MultiStep(milestones=[50, 75], warmup=20, warmup_start=0.1),
            lambda o: lr_scheduler.ChainedScheduler(
                [lr_scheduler.LinearLR(o, 0.1, 1.0, 20), lr_scheduler.MultiStepLR(o, [50, 75])], o
            ),
        ),
        (Constant(warmup=0.1, warmup_start=0.0), lambda o: lr_scheduler.LinearLR(o, 1e-16, 1.0, 10)),
    ],
)
def test_schedule_equals_torch(ours, theirs):
    # torch's are recursive: they gather rounding errors, ours do not.
    assert factors(ours) == pytest.approx(torch_rates(theirs), abs=1e-9)


def test_a_step_is_not_late_by_rounding():
    assert 0.07 * 100 > 7
    assert [Step(every=0.07)(step, 100) for step in (6, 7)] == [1.0, 0.1]
    assert (
        sum(a != b for a, b in zip(factors(Step(every=1 / 3)), factors(Step(every=1 / 3))[1:], strict=False))
        == 2
    )


@pytest.mark.parametrize("total", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("name", ["constant", "step", "multistep", "cosine", "polynomial", "one_cycle"])
def test_shipped_schedules_serve_any_length(name, total):
    settings = yaml.safe_load((CONF / "scheduler" / f"{name}.yaml").read_text())
    module, _, attribute = settings.pop("_target_").rpartition(".")
    schedule = getattr(importlib.import_module(module), attribute)(**settings)
    values = [schedule(step, total) for step in range(total + 2)]  # torch asks once more after the last step
    assert all(0 <= value <= 1 for value in values)
    assert values[0] > 0
    if total == 1000:
        assert max(values) == pytest.approx(1.0, abs=1e-3)
        if name != "constant":
            assert values[-1] < 0.02


def test_schedules_drive_lambda_lr_and_resume():
    def make():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
        return optimizer, lr_scheduler.LambdaLR(optimizer, lambda step: Cosine(warmup=0.2)(step, 20))

    rates = []
    optimizer, scheduler = make()
    for step in range(20):
        if step == 9:
            states = optimizer.state_dict(), scheduler.state_dict()
            optimizer, scheduler = make()
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == [0.5 * Cosine(warmup=0.2)(step, 20) for step in range(20)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(warmup=-1), "scheduler.warmup has -1"),
        (lambda: Cosine(warmup=-0.1), "scheduler.warmup has -0.1"),
        (lambda: Cosine(warmup=1.5), "scheduler.warmup has 1.5"),
        (lambda: OneCycle(warmup=1.0), "scheduler.warmup has 1.0"),
        (lambda: Constant(warmup=5, warmup_start=-0.1), "scheduler.warmup_start is -0.1"),
        (lambda: Step(every=0), "scheduler.every has 0"),
        (lambda: Step(every=10, factor=-1), "scheduler.factor is -1"),
        (lambda: MultiStep(milestones=[75, 50]), r"scheduler.milestones is \[75, 50\]; they must rise"),
        (lambda: MultiStep(milestones=[50, 50]), "they must rise"),
        (lambda: MultiStep(milestones=[0.5, 75]), "all steps or all fractions"),
        (lambda: MultiStep(milestones=[0.5, 1.5]), "scheduler.milestones has 1.5"),
        (lambda: Polynomial(power=0), "scheduler.power is 0"),
        (lambda: Cosine(final=2), "scheduler.final is 2"),
        (lambda: Cosine(warmup=200)(0, 100), "scheduler.warmup is 200 steps, but the training has 100"),
        (lambda: OneCycle(warmup=200)(0, 100), "scheduler.warmup is 200 steps, but the training has 100"),
    ],
)
def test_wrong_values_name_their_key(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- parameter groups ------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.backbone(x).mean((2, 3)))


def shapes(groups):
    return {group["name"]: [tuple(p.shape) for p in group["params"]] for group in groups}


def test_groups_separate_backbone_norms_and_biases():
    groups = parameter_groups(Model(), lr=0.1, weight_decay=0.01, backbone_lr_factor=0.5)
    assert shapes(groups) == {
        "backbone": [(8, 3, 3, 3)],
        "backbone_no_decay": [(8,), (8,)],
        "head": [(4, 8)],
        "head_no_decay": [(4,)],
    }
    settings = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert settings == {
        "backbone": (0.05, 0.01),
        "backbone_no_decay": (0.05, 0.0),
        "head": (0.1, 0.01),
        "head_no_decay": (0.1, 0.0),
    }


def test_decay_of_everything_if_asked():
    groups = parameter_groups(Model(), lr=0.1, weight_decay=0.01, decay_norm_and_bias=True)
    assert {name: len(found) for name, found in shapes(groups).items()} == {"backbone": 3, "head": 2}
    assert all(group["weight_decay"] == 0.01 for group in groups)


def test_frozen_parameters_are_left_out():
    model = Model()
    model.backbone.requires_grad_(False)
    assert list(shapes(parameter_groups(model, lr=0.1, weight_decay=0))) == ["head", "head_no_decay"]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="every parameter is frozen"):
        parameter_groups(model, lr=0.1, weight_decay=0)


def test_shared_parameters_and_models_without_a_backbone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    groups = parameter_groups(model, lr=0.1, weight_decay=0)
    assert shapes(groups) == {"head": [(4, 4)], "head_no_decay": [(4,), (4,)]}


@pytest.mark.parametrize("key", ["lr", "weight_decay", "backbone_lr_factor"])
def test_negative_rates_are_refused(key):
    with pytest.raises(ValueError, match=f"{key} is -1"):
        parameter_groups(Model(), **{"lr": 0.1, "weight_decay": 0.0, key: -1})


# --- the optimizers' YAML files --------------------------------------------------------------------

FUSED = {"sgd", "momentum", "nesterov", "adam", "adamw"}  # on the CPU, CUDA and MPS


@pytest.mark.parametrize("path", sorted((CONF / "optimizer").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_optimizer_learns_with_its_shipped_values(path):
    settings = yaml.safe_load(path.read_text())
    assert settings.pop("_partial_") is True
    assert settings.get("fused", False) == (path.stem in FUSED)
    module, _, attribute = settings.pop("_target_").rpartition(".")
    torch.manual_seed(0)
    model = Model()
    groups = parameter_groups(
        model, lr=settings["lr"], weight_decay=settings["weight_decay"], backbone_lr_factor=0.1
    )
    optimizer = getattr(importlib.import_module(module), attribute)(groups, **settings)
    assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in groups]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [g["weight_decay"] for g in groups]
    x, y = torch.randn(64, 3, 8, 8), torch.arange(64) % 4
    x[torch.arange(64), y % 3] += (y[:, None, None] + 1) * 0.5
    before = [p.detach().clone() for p in model.parameters()]
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(FUSED))
def test_fused_steps_equal_those_one_tensor_at_a_time(name):
    settings = yaml.safe_load((CONF / "optimizer" / f"{name}.yaml").read_text())
    del settings["_partial_"]
    make = getattr(torch.optim, settings.pop("_target_").rpartition(".")[2])
    torch.manual_seed(0)
    models = [Model(), Model()]
    models[1].load_state_dict(models[0].state_dict())
    ways = [{}, {"fused": False, "foreach": False}]
    optimizers = [make(m.parameters(), **settings | way) for m, way in zip(models, ways, strict=True)]
    for _ in range(5):
        for parameters in zip(*(m.parameters() for m in models), strict=True):
            gradient = torch.randn_like(parameters[0])
            for parameter in parameters:
                parameter.grad = gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
