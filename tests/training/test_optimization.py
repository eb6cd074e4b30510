import math

import pytest
import torch
from torch import nn

from modeling_cssfe.recipes import load_recipe
from modeling_cssfe.recipes.checks import OPTIMIZERS, SCHEDULES
from modeling_cssfe.training.optimization import build_optimizer, build_schedule, parameter_groups


class _Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.cssfe = nn.ModuleDict({"backbone": nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))})
        self.classifier = nn.Linear(4, 2)


def test_backbone_and_head_have_their_own_rate_and_norms_and_biases_no_decay():
    model = _Model()
    recipe = load_recipe(None, ["learning_rate=0.1", "backbone_learning_rate=0.01", "weight_decay=0.5"])
    found = {
        id(parameter): (group["name"], group["lr"], group["weight_decay"])
        for group in parameter_groups(model, recipe)
        for parameter in group["params"]
    }
    convolution, norm = model.cssfe["backbone"]
    assert found == {
        id(convolution.weight): ("backbone", 0.01, 0.5),
        id(convolution.bias): ("backbone", 0.01, 0.0),
        id(norm.weight): ("backbone", 0.01, 0.0),
        id(norm.bias): ("backbone", 0.01, 0.0),
        id(model.classifier.weight): ("head", 0.1, 0.5),
        id(model.classifier.bias): ("head", 0.1, 0.0),
    }


def test_frozen_parameters_are_left_to_no_optimizer():
    model = _Model()
    model.cssfe.requires_grad_(False)
    assert {group["name"] for group in parameter_groups(model, load_recipe())} == {"head"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_follows_its_gradient(name):
    model = _Model()
    optimizer = build_optimizer(model, load_recipe(None, [f"optimizer={name}", "learning_rate=0.01"]))
    before = model.classifier.weight.detach().clone()
    model.classifier.weight.grad = torch.ones_like(before)
    optimizer.step()
    assert (model.classifier.weight < before).all()


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("updates", [1, 2, 7, 10, 100])  # a tenth is warm-up: of 10 that is one update
def test_every_schedule_lasts_the_run_and_never_exceeds_the_peak(name, updates):
    recipe = load_recipe(None, [f"schedule={name}", "learning_rate=0.1", "backbone_learning_rate=0.01"])
    optimizer = build_optimizer(_Model(), recipe)
    schedule = build_schedule(optimizer, recipe, updates)
    rates = []
    for _ in range(updates):
        rates.append(next(group["lr"] for group in optimizer.param_groups if group["name"] == "head"))
        optimizer.step()
        schedule.step()
    assert max(rates) <= 0.1 * (1 + 1e-9)
    assert all(math.isfinite(rate) for rate in rates)
    if updates == 100:
        assert max(rates) == pytest.approx(0.1)
        assert rates[0] < 0.1
        assert (rates[-1] == pytest.approx(0.1)) == (name == "constant")
