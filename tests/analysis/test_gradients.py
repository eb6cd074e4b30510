# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json

import numpy as np
import pytest
import torch
from planted import planted_model, random_batch
from tiny_runs import tiny_overrides

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.analysis.gradients import gradients_from_probabilities, measure_gradients
from modeling_cssfe.analysis.study_run import training_history
from modeling_cssfe.losses import build_loss, list_losses
from modeling_cssfe.training.gradient_observer import GradientMeter, logit_gradients


LABELS = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def logits():
    return torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradients_of_cross_entropy_are_sigma_minus_y(reduction):
    loss = build_loss("bce", class_counts=[9, 5, 2], num_samples=16, reduction=reduction)
    found = logit_gradients(logits(), LABELS, loss)
    expected = torch.where(LABELS < 0, 0.0, 1 / (1 + torch.exp(-logits())) - LABELS)
    assert torch.allclose(found, expected)


# A mean over images and one over labels part where labels are unknown: here the gradient must be that of the sum.
@pytest.mark.parametrize("name", list_losses())
def test_the_reduction_of_a_loss_makes_no_difference(name):
    labels = torch.cat([LABELS, torch.tensor([[-1.0, -1.0, 1.0]])])
    values = torch.cat([logits(), logits()[:1]])
    by_sum, by_mean = (
        logit_gradients(values, labels, build_loss(name, class_counts=[9, 5, 2], num_samples=16, reduction=reduction))
        for reduction in ("sum", "mean")
    )
    assert torch.equal(by_sum, by_mean)
    assert (by_mean[labels < 0] == 0).all()


# These have no factor that is held fixed in the backward pass, so differences of their value are their gradient.
@pytest.mark.parametrize("name", ["bce", "mlsm", "focal", "rw", "cb_focal"])
def test_gradients_of_other_losses_are_differences_of_their_sum(name):
    loss = build_loss(name, class_counts=[9, 5, 2], num_samples=16, reduction="sum")
    labels = LABELS.clamp(min=0)
    found = logit_gradients(logits(), labels, loss)
    step = 1e-5
    for place in np.ndindex(3, 3):
        shifted = [logits(), logits()]
        shifted[0][place] += step
        shifted[1][place] -= step
        expected = (loss(shifted[0], labels) - loss(shifted[1], labels)).item() / (2 * step)
        assert found[place].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_the_meter_averages_by_class_and_group_whatever_the_batches():
    gradients = logits()
    meters = [GradientMeter("abc", ["head", "tail", "tail"]) for _ in range(2)]
    meters[0].update(gradients, LABELS)
    for row in range(3):
        meters[1].update(gradients[row : row + 1], LABELS[row : row + 1])
    found = meters[0].compute()
    values = gradients.numpy()
    assert found["per_class"]["a"]["positives"] == pytest.approx(values[0, 0])
    assert found["per_class"]["a"]["negatives"] == pytest.approx((values[1, 0] + values[2, 0]) / 2)
    assert found["per_class"]["b"]["net"] == pytest.approx(values[:, 1].mean())
    down = np.clip(values[:, 1], 0, None).sum() / np.abs(values[:, 1]).sum()
    assert found["per_class"]["b"]["push_down"] == pytest.approx(down)
    tail = (values[1, 1] + values[2, 2]) / 2
    assert found["groups"]["tail"]["positives"] == pytest.approx(tail)
    for name, figures in meters[1].compute()["per_class"].items():
        assert figures == pytest.approx(found["per_class"][name])
    meters[0].reset()
    assert meters[0].compute()["per_class"]["a"]["net"] is None


def test_gradients_of_a_model_over_data_have_intervals_whatever_the_batches():
    model = planted_model()[0]
    batch = random_batch(torch.Generator().manual_seed(0), 9)
    batch["labels"][0, 1] = -1
    singles = [{key: value[row : row + 1] for key, value in batch.items()} for row in range(9)]
    loss = torch.nn.BCEWithLogitsLoss(reduction="sum")

    def known(logits, labels):
        return loss(logits[labels >= 0], labels[labels >= 0])

    found = [measure_gradients(model, data, known, resamples=30) for data in ([batch], singles)]
    with torch.no_grad():
        gradients = (model(batch["pixel_values"]).logits.double().sigmoid() - batch["labels"]).numpy()
    labels = batch["labels"].numpy()
    for column, name in enumerate(model.config.label_names):
        own, present = gradients[:, column], labels[:, column]
        expected = {
            "positives": own[present == 1].mean(),
            "negatives": own[present == 0].mean(),
            "net": own[present >= 0].mean(),
            "push_down": own[present == 0].sum() / np.abs(own[present >= 0]).sum(),
        }
        for figure, value in expected.items():
            for summaries in found:
                interval = summaries[figure].per_class[name]
                assert interval.value == pytest.approx(value, abs=1e-6)
                assert interval.low <= interval.value <= interval.high
            assert found[0][figure].per_class[name].low == pytest.approx(found[1][figure].per_class[name].low, abs=1e-6)


def test_gradients_are_of_the_logits_that_the_loss_is_given_and_of_the_labels_as_smoothed():
    config = CSSFEConfig(
        backbone="test_resnet",
        preset="plus",
        image_size=32,
        label_names=["a", "b", "c"],
        class_counts=[120, 40, 4],
        label_embedding_dim=8,
        discriminant_share=0.5,
    )
    torch.manual_seed(0)
    model = CSSFEForImageClassification(config).eval()
    model.set_discriminant(torch.randn(model.discriminant.weight.shape), torch.randn(3))
    model.set_loss(build_loss("bce", reduction="sum"))
    batch = {"pixel_values": torch.randn(4, 3, 32, 32), "labels": torch.eye(4)[:, :3]}
    found = measure_gradients(model, [batch], resamples=2, label_smoothing=0.2)["net"].per_class
    # The classifier's bias is added to its logits, so the gradient of the loss on it is the sum of theirs.
    model(**batch | {"labels": 0.8 * batch["labels"] + 0.1}).loss.backward()
    expected = (model.classifier.bias.grad.flatten() / 4).tolist()
    assert [found[name].value for name in "abc"] == pytest.approx(expected, rel=1e-5)
    assert not model.classifier._forward_hooks


# Takes some ten seconds, as a network is trained for two epochs.
def test_a_run_records_its_gradients_while_it_trains(tiny_data, tmp_path):
    from modeling_cssfe.training import load_recipe, train

    # With cross-entropy the recorded gradients must be the recorded probabilities less the label.
    recipe = load_recipe(None, tiny_overrides(tiny_data, loss="bce", ablation="net0", record_gradients="true"))
    train(recipe, tmp_path / "run", quiet=True)
    history = training_history(tmp_path / "run")
    assert [entry["epoch"] for entry in history] == [1, 2]
    for entry in history:
        assert entry["gradients_of"] == "own loss"
        assert set(entry["gradients"]) == {"head", "medium", "tail"}
        assert all(0 <= own["push_down"] <= 1 for own in entry["gradients"].values())
        for group, expected in gradients_from_probabilities(entry["probabilities"]).items():
            for kind in ("positives", "negatives"):
                assert entry["gradients"][group][kind] == pytest.approx(expected[kind], abs=1e-6)

    # The same classes by other groups: red alone is of the head by its counts.
    regrouped = training_history(tmp_path / "run", ["tail", "tail", "head"])
    for usual_groups, own in zip(history, regrouped, strict=True):
        assert set(own["gradients"]) == {"head", "tail"}
        before, after = usual_groups["gradients"], own["gradients"]
        for figure in ("positives", "negatives", "net", "push_down"):
            assert after["head"][figure] == before["head"][figure]
            mean = (before["medium"][figure] + before["tail"][figure]) / 2
            assert after["tail"][figure] == pytest.approx(mean)


def test_a_meter_that_is_stopped_goes_on_to_the_bit():
    whole, first, second = (GradientMeter("abc", ["head", "medium", "tail"]) for _ in range(3))
    for meter in (whole, first):
        meter.update(logits(), LABELS)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for meter in (whole, second):
        meter.update(logits().flip(0) / 3, LABELS.flip(0))
    assert second.compute() == whole.compute()


def test_a_folder_without_a_log_has_no_history(tmp_path):
    assert training_history(tmp_path) == []
