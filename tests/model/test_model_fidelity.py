# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The model against the slow float64 reference: forward and gradients, every preset, ablation and option."""

import itertools

import pytest
import torch
from torch import nn

from modeling_cssfe.configuration_cssfe import ABLATIONS, CHOICES, PRESETS

from .helpers import FEATURES, small_model
from .reference import slow_attention_matrix, slow_cssfe


MAP_SIZES = [(1, 1), (2, 3), (3, 2), (2, 2)]
SHAPES = list(itertools.product((1, 3), (2, 5, 20)))


class GivenMaps(nn.Module):
    """In place of the backbone: `pixel_values` are the backbone's features themselves."""

    def __init__(self, config):
        super().__init__()
        self.num_features = config.num_channels = FEATURES
        self.map_size = tuple(side // 32 for side in config.image_height_and_width)

    def forward(self, pixel_values):
        return pixel_values


@pytest.fixture(autouse=True)
def maps_instead_of_a_backbone(monkeypatch):
    monkeypatch.setattr("modeling_cssfe.modeling_cssfe.CSSFEBackbone", GivenMaps)


def assert_close_to_reference(actual: torch.Tensor, expected: torch.Tensor, what: str):
    actual, expected = actual.detach().double(), expected.detach()
    largest, error = float(expected.abs().max()), float((actual - expected).abs().max())
    assert error < 1e-5 * max(1.0, largest), f"{what} differs by {error:.1e}, its largest entry is {largest:.1e}"
    # Small tensors must agree too. Sums that cancel, as under a LayerNorm, leave fp32 some four digits of them.
    if largest > 1e-4:
        assert error < 2e-4 * largest, f"{what} differs by {error:.1e}, its largest entry is {largest:.1e}"


def compare_with_reference(model, batch: int = 2, seed: int = 3):
    """Forward, gradients of the features and of every parameter."""
    generator = torch.Generator().manual_seed(seed)
    map_size = model.cssfe.backbone.map_size
    features = torch.randn(batch, FEATURES, *map_size, generator=generator)
    mine, slow = features.clone().requires_grad_(), features.double().requires_grad_()
    state = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    for name in parameters:
        state[name].requires_grad_()

    out = model(mine)
    expected = slow_cssfe(state, model.config, slow)
    pairs: dict[str, tuple] = {
        "logits": (out.logits, expected["logits"]),
        "maps": (out.class_activation_maps, expected["maps"]),
        "enhanced maps": (out.enhanced_activation_maps, expected["enhanced"]),
    }
    objective, slow_objective = torch.zeros(()), torch.zeros((), dtype=torch.float64)
    for what, (actual, reference) in pairs.items():
        assert (actual is None) == (reference is None), what
        if actual is not None and reference is not None:
            assert_close_to_reference(actual, reference, what)
            direction = torch.randn(actual.shape, generator=generator) / actual.numel()
            objective = objective + (direction * actual).sum()
            slow_objective = slow_objective + (direction.double() * reference).sum()
    objective.backward()
    slow_objective.backward()
    assert mine.grad is not None
    assert slow.grad is not None
    assert_close_to_reference(mine.grad, slow.grad, "gradient of the features")
    for name, parameter in parameters.items():
        reference = state[name].grad
        if reference is None:
            assert parameter.grad is None or not parameter.grad.any(), name
        else:
            assert_close_to_reference(parameter.grad, reference, f"gradient of {name}")


@pytest.mark.parametrize(("batch", "num_labels"), SHAPES)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_and_ablations_agree_with_the_slow_reference(preset, ablation, batch, num_labels):
    map_size = MAP_SIZES[(SHAPES.index((batch, num_labels)) + ABLATIONS.index(ablation)) % len(MAP_SIZES)]
    model = small_model(preset=preset, ablation=ablation, num_labels=num_labels, map_size=map_size)
    compare_with_reference(model, batch)


SWITCHES = (
    "center_label_embeddings",
    "enhancement_residual",
    "map_gate",
    "fusion_residual",
    "fusion_final_norm",
    "qkv_bias",
)
# The values that a preset has itself are covered above.
OTHER_VALUES = [
    (preset, field, value)
    for preset, settings in PRESETS.items()
    for field, values in [*CHOICES.items(), *((switch, (False, True)) for switch in SWITCHES)]
    for value in values
    if settings.get(field, False) != value
]


@pytest.mark.parametrize(("preset", "field", "value"), OTHER_VALUES)
def test_every_other_value_of_every_option_agrees_with_the_slow_reference(preset, field, value):
    compare_with_reference(small_model(preset=preset, **{field: value}))


def test_every_switch_of_the_presets_is_among_those_tested():
    switches = {field for values in PRESETS.values() for field, value in values.items() if isinstance(value, bool)}
    assert switches <= set(SWITCHES)
    texts = {field for values in PRESETS.values() for field, value in values.items() if isinstance(value, str)}
    assert texts == set(CHOICES)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 6},
        {"hidden_size": 20, "attention_size": 3},
        {"feature_size": FEATURES},
        {"hidden_act": "relu", "layer_norm_eps": 0.1},
        {"num_attention_heads": 1, "attention_head_dim": 3, "intermediate_size": 1},
        {"label_embedding_dim": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("preset", PRESETS)
def test_other_widths_agree_with_the_slow_reference(preset, sizes):
    compare_with_reference(small_model(preset=preset, **sizes))


GROUPINGS = {
    "one group": [500, 200, 100, 300],
    "only medium": [30, 40, 99, 20],
    "only tail": [1, 2, 3, 19],
    "no medium": [1, 500, 3, 100],
    "no head": [30, 5, 99, 19],
    "no tail": [30, 500, 99, 100],
    "one of each": [5, 30, 500],
    "one head": [5, 30, 500, 4, 31],
    "one class": [5],
    "counts unknown": None,
}


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("preset", PRESETS)
def test_empty_and_shuffled_groups_agree_with_the_slow_reference(preset, grouping):
    counts = GROUPINGS[grouping]
    labels = {"num_labels": len(counts or "four")}
    model = small_model(preset=preset, class_counts=counts, id2label={i: str(i) for i in range(labels["num_labels"])})
    assert model.config.num_labels == labels["num_labels"]
    compare_with_reference(model)


@pytest.mark.parametrize("preset", PRESETS)
def test_thresholds_of_the_groups_are_settings(preset):
    model = small_model(preset=preset, head_min=31, tail_max=7)
    compare_with_reference(model, 1)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
@pytest.mark.parametrize("preset", PRESETS)
def test_enhancement_in_blocks_of_rows_agrees_with_the_slow_reference(preset, rows, monkeypatch):
    monkeypatch.setattr("modeling_cssfe.layers_cssfe.ENHANCEMENT_ROWS", rows)
    compare_with_reference(small_model(preset=preset))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_class_attention_that_is_returned_is_the_slow_one(preset):
    model = small_model(preset=preset, num_labels=20)
    model.set_attn_implementation("eager")
    state = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    expected = torch.stack([torch.stack(row) for row in slow_attention_matrix(state, model.config)])
    pixel_values = torch.randn(2, FEATURES, 2, 3)
    matrix, fusion = model(pixel_values, output_attentions=True).attentions
    assert matrix.shape == (2, 1, 20, 20)
    assert fusion.shape == (2, 2, 20, 40)
    for image in matrix:
        assert_close_to_reference(image[0], expected, "M'")
    assert_close_to_reference(fusion.sum(-1), torch.ones(2, 2, 20, dtype=torch.float64), "sums of fusion weights")


def test_dropout_is_where_the_released_code_has_it():
    """Its attention weights are not dropped; everything else of the head is, at .1."""
    model = small_model(preset="released")
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert rates == {
        "cssfe.label_encoder.projection.2": 0.1,
        "cssfe.label_encoder.dropout": 0.1,
        "cssfe.fusion.block.dropout": 0.1,
    }
    assert model.cssfe.fusion.block.attention.attention_dropout == 0.0
