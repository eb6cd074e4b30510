# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Labels of any dtype, unknown labels, batch size 1, other image sizes, and inputs of the wrong shape."""

import importlib.machinery
import importlib.util
import math

import pytest
import torch

from modeling_cssfe.configuration_cssfe import ABLATIONS, PRESETS

from .helpers import images_for, small_model


MULTI_HOT = [[1, 0, 0, 1, 0], [0, 1, 1, 0, 1], [1, 1, 0, 0, 0]]
NAN = math.nan


def slow_asl(logits, labels, margin: float, gamma_neg: float = 4.0) -> float:
    """Asymmetric loss without focus on positives, one entry at a time; the mean over known entries."""
    terms = []
    for row, targets in zip(logits.tolist(), labels, strict=True):
        for score, target in zip(row, targets, strict=True):
            if math.isnan(target) or target < 0:
                continue
            probability = 1 / (1 + math.exp(-score))
            shifted = max(probability - margin, 0.0)
            terms.append(-math.log(probability) if target == 1 else -(shifted**gamma_neg) * math.log(1 - shifted))
    return sum(terms) / len(terms) if terms else 0.0


@pytest.fixture(scope="module")
def model():
    return small_model(preset="paper")


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_loss_is_asl_with_the_presets_margin(preset, ablation):
    model = small_model(preset=preset, ablation=ablation)
    out = model(images_for(model, 3), labels=torch.tensor(MULTI_HOT))
    margin = {"paper": 0.0, "released": 0.05, "corrected": 0.05, "plus": 0.05}[preset]
    logits = out.logits.double()
    if model.discriminant is not None:  # the loss is that of the fused logits, without the discriminant's share
        share = model.config.discriminant_share
        known = model.discriminant(model.cssfe(images_for(model, 3)).last_hidden_state).double()
        logits = (logits - share * known) / (1 - share)
    assert out.loss.item() == pytest.approx(slow_asl(logits, MULTI_HOT, margin), rel=1e-5)


def test_the_loss_of_the_configuration_can_be_binary_cross_entropy(model):
    model = small_model(loss="bce")
    out = model(images_for(model, 3), labels=torch.tensor(MULTI_HOT))
    expected = torch.nn.functional.multilabel_soft_margin_loss(out.logits.double(), torch.tensor(MULTI_HOT))
    assert out.loss.item() == pytest.approx(expected.item(), rel=1e-5)


DTYPES = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_labels_of_any_dtype_give_the_same_loss(model, dtype):
    labels = torch.tensor(MULTI_HOT).to(dtype)
    before = labels.clone()
    out = model(images_for(model, 3), labels=labels)
    assert out.loss.item() == pytest.approx(slow_asl(out.logits.double(), MULTI_HOT, 0.0), rel=1e-5)
    assert torch.equal(labels, before)


UNKNOWN = {
    "an entry": [[1, 0, -1, 1, 0], [0, 1, 1, 0, 1], [1, 1, 0, 0, -1]],
    "a column": [[1, 0, 0, -1, 0], [0, 1, 1, -1, 1], [1, 1, 0, -1, 0]],
    "an image": [[1, 0, 0, 1, 0], [-1] * 5, [1, 1, 0, 0, 0]],
    "all": [[-1] * 5] * 3,
}


@pytest.mark.parametrize("mark", [-1.0, NAN], ids=["minus one", "nan"])
@pytest.mark.parametrize("what", UNKNOWN)
def test_unknown_labels_leave_the_loss_as_if_they_were_absent(what, mark):
    model = small_model(preset="paper")
    labels = [[mark if entry == -1 else float(entry) for entry in row] for row in UNKNOWN[what]]
    logits: list[torch.Tensor] = []

    def keep(module, inputs, output):
        output.retain_grad()
        logits.append(output)

    model.classifier.register_forward_hook(keep)
    out = model(images_for(model, 3), labels=torch.tensor(labels))
    assert out.loss.item() == pytest.approx(slow_asl(out.logits.double(), labels, 0.0), rel=1e-5)
    out.loss.backward()
    unknown = torch.tensor(UNKNOWN[what]) == -1
    gradient = logits[0].grad
    assert gradient is not None
    assert (gradient[unknown] == 0).all()
    assert (gradient[~unknown] != 0).all()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_integer_labels_mark_unknown_by_minus_one(model):
    labels = torch.tensor(UNKNOWN["an entry"])
    out = model(images_for(model, 3), labels=labels)
    assert out.loss.item() == pytest.approx(slow_asl(out.logits.double(), UNKNOWN["an entry"], 0.0), rel=1e-5)


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_batch_of_one_gives_the_row_that_it_gives_in_a_larger_batch(preset, ablation):
    model = small_model(preset=preset, ablation=ablation)
    images = images_for(model, 3)
    with torch.no_grad():
        whole, single = model(images), model(images[1:2], labels=torch.tensor(MULTI_HOT[1:2]))
    assert single.logits.shape == (1, 5)
    assert single.class_activation_maps.shape == (1, 5, 2, 3)
    torch.testing.assert_close(single.logits, whole.logits[1:2], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_labels", [1, 2])
@pytest.mark.parametrize("preset", PRESETS)
def test_one_and_two_classes_and_one_image_keep_their_axes(preset, num_labels):
    model = small_model(preset=preset, num_labels=num_labels)
    out = model(images_for(model, 1), labels=torch.ones(1, num_labels))
    assert out.logits.shape == (1, num_labels)
    assert out.loss.shape == ()


@pytest.mark.parametrize("preset", ["paper", "corrected"])
def test_other_image_sizes_work(preset):
    model = small_model(preset=preset)
    for height, width in ((32, 32), (96, 160), (100, 70)):
        out = model(torch.randn(2, 3, height, width))
        expected = (math.ceil(height / 32), math.ceil(width / 32))
        assert out.class_activation_maps.shape[2:] == out.enhanced_activation_maps.shape[2:] == expected


def test_another_image_size_with_the_released_gate_names_both_sizes():
    model = small_model(preset="released")
    with pytest.raises(
        ValueError, match=r"map_gate fixes maps of 2x3 \(images of 64x96\), got 3x3 \(images of 96x96\)"
    ) as caught:
        model(torch.randn(2, 3, 96, 96))
    assert "\n" not in str(caught.value)


def test_another_image_size_with_a_spatial_value_map_names_both_sizes():
    model = small_model(map_value_projection="spatial")
    with pytest.raises(ValueError, match=r"fixes maps of 2x3 \(images of 64x96\), got 1x1 \(images of 32x32\)"):
        model(torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("shape", [(3, 64, 96), (2, 1, 64, 96), (2, 4, 64, 96), (64, 96), (2, 1, 3, 64, 96)])
def test_images_of_the_wrong_shape_are_refused_in_one_line(model, shape):
    with pytest.raises(ValueError, match=r"pixel_values must be \(batch, 3, height, width\)") as caught:
        model(torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_images_are_refused_in_one_line(model):
    with pytest.raises(ValueError, match=r"pixel_values must be .* got None"):
        model(None)


@pytest.mark.parametrize("shape", [(2, 4), (3, 5), (2,), (2, 5, 1), (5, 2)])
def test_labels_of_the_wrong_shape_are_refused_in_one_line(model, shape):
    with pytest.raises(ValueError, match="labels have the shape") as caught:
        model(images_for(model, 2), labels=torch.zeros(shape))
    assert str(shape) in str(caught.value)
    assert "(2, 5)" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("num_channels", [1, 4])
def test_images_need_not_have_three_channels(num_channels):
    statistics = [0.5] * num_channels
    model = small_model(num_channels=num_channels, image_mean=statistics, image_std=statistics)
    assert model(images_for(model)).logits.shape == (2, 5)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_outputs_are_those_that_the_ablation_has(ablation):
    model = small_model(ablation=ablation)
    model.set_attn_implementation("eager")
    out = model(images_for(model), output_hidden_states=True, output_attentions=True)
    rank = ABLATIONS.index(ablation)
    assert out.class_activation_maps.shape == (2, 5, 2, 3)
    assert (out.enhanced_activation_maps is not None) == (rank >= 2)
    shapes = [(2, 12, 2, 3)] + [(2, 5, 8)] * (rank >= 1)
    assert [tuple(state.shape) for state in out.hidden_states] == shapes
    attentions = [(2, 1, 5, 5)] * (rank >= 2) + [(2, 2, 5, 10)] * (rank >= 1)
    assert [tuple(weights.shape) for weights in out.attentions or ()] == attentions
    if ablation == "net0":
        torch.testing.assert_close(out.logits, out.class_activation_maps.mean(dim=(2, 3)))


def test_return_dict_false_gives_the_same_tensors_as_a_tuple(model):
    images = images_for(model)
    out, plain = model(images), model(images, return_dict=False)
    assert isinstance(plain, tuple)
    for first, second in zip(out.to_tuple(), plain, strict=True):
        assert torch.equal(first, second)


def test_a_training_step_reaches_every_parameter():
    for preset in PRESETS:
        model = small_model(preset=preset, large_weights=False).train()
        model(images_for(model, 3), labels=torch.tensor(MULTI_HOT)).loss.backward()
        without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert without == set()


def test_label_embeddings_are_no_parameter():
    model = small_model()
    assert "cssfe.label_embeddings" not in dict(model.named_parameters())
    assert "cssfe.label_embeddings" in dict(model.named_buffers())
    assert "cssfe.label_embeddings" in model.state_dict()


def test_the_loss_adds_nothing_to_the_state_dict():
    model = small_model()
    keys = set(model.state_dict())
    model(images_for(model, 3), labels=torch.tensor(MULTI_HOT))
    assert set(model.state_dict()) == keys


def test_a_loss_of_the_callers_own_takes_the_place_of_the_configured_one():
    class Largest(torch.nn.Module):
        def forward(self, logits, labels):
            return (logits * labels).max()

    model = small_model()
    model.set_loss(Largest())
    labels = torch.tensor(MULTI_HOT)
    out = model(images_for(model, 3), labels=labels)
    assert out.loss == (out.logits * labels).max()
    model.loss_function = torch.nn.BCEWithLogitsLoss()  # as for any model of transformers
    expected = torch.nn.functional.binary_cross_entropy_with_logits(out.logits, labels.float())
    assert model(images_for(model, 3), labels=labels.float()).loss == expected
    with pytest.raises(TypeError, match=r"the loss is <function .*; give a torch\.nn\.Module"):
        model.loss_function = torch.nn.functional.binary_cross_entropy_with_logits


def test_weights_of_a_loss_are_not_saved_with_the_model(tmp_path):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, logits, labels):
            return self.scale * torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)

    model = small_model()
    model.set_loss(Scaled())
    assert any(parameter is model.criterion.scale for parameter in model.parameters())  # it learns with the model
    model.save_pretrained(tmp_path)
    _, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())


def test_options_that_a_loss_does_not_take_are_refused_by_name():
    model = small_model(loss="bce", loss_kwargs={"gama": 2})
    with pytest.raises(ValueError, match=r"loss_kwargs \{'gama': 2\} do not fit the loss 'bce'") as caught:
        model(images_for(model), labels=torch.zeros(2, 5))
    assert "\n" not in str(caught.value)


def test_a_loss_of_groups_takes_those_of_the_configuration_unless_its_options_say_otherwise():
    settings = {"num_labels": 4, "class_counts": [60, 30, 12, 8], "num_samples": 80, "loss": "pg"}
    model = small_model(**settings, head_min=50, tail_max=10)
    assert model.loss_function.groups.tolist() == [0, 1, 1, 2]
    assert model.config.groups == ["head", "medium", "medium", "tail"]
    options = {"head_min": 20, "tail_max": 10}
    model = small_model(**settings, head_min=50, tail_max=10, loss_kwargs=options)
    assert model.loss_function.groups.tolist() == [0, 0, 1, 2]


def test_a_module_beside_saved_weights_is_not_taken_for_the_package(monkeypatch):
    spec = importlib.machinery.ModuleSpec("modeling_cssfe", None, origin="modeling_cssfe.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(ValueError, match="needs the whole package; run `pip install cssfe`"):
        small_model(loss="db", num_samples=600).loss_function  # noqa: B018
