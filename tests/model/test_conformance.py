# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""torch's ways to run a model give the numbers of plain eager mode: compile, export, attention, precision, memory."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from modeling_cssfe import CSSFEForImageClassification
from modeling_cssfe.configuration_cssfe import ABLATIONS, PRESETS

from .helpers import enlarge_weights, images_for, small_config, small_model


def outputs_of(model, images):
    with torch.no_grad():
        out = model(images)
    return {name: out[name] for name in ("logits", "class_activation_maps", "enhanced_activation_maps") if name in out}


def assert_same(actual, expected, tolerance: float = 1e-5):
    assert actual.keys() == expected.keys()
    for name in expected:
        difference = (actual[name].float() - expected[name]).abs().max()
        assert difference <= tolerance * max(1.0, expected[name].abs().max()), name


def gradients_of(model, images, labels):
    model.zero_grad()
    loss = model(images, labels=labels).loss
    loss.backward()
    return loss.item(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def labels_for(model, batch: int) -> torch.Tensor:
    return torch.arange(batch * model.config.num_labels).view(batch, -1) % 3 == 0


# Attention implementations.


@pytest.mark.parametrize("fusion_mode", ["tokens", "channels"])
@pytest.mark.parametrize("preset", PRESETS)
def test_sdpa_equals_eager_attention_forward_and_backward(preset, fusion_mode):
    model = small_model(preset=preset, fusion_mode=fusion_mode)
    images = images_for(model)
    results = {}
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.cssfe.config._attn_implementation == implementation
        results[implementation] = (outputs_of(model, images), gradients_of(model, images, labels_for(model, 2)))
    assert_same(results["sdpa"][0], results["eager"][0])
    assert results["sdpa"][1][0] == pytest.approx(results["eager"][1][0], rel=1e-5)
    for name, gradient in results["eager"][1][1].items():
        torch.testing.assert_close(results["sdpa"][1][1][name], gradient, rtol=1e-3, atol=1e-5)


def test_sdpa_is_the_default():
    assert small_model().config._attn_implementation == "sdpa"


# torch.compile. Thirty seconds and more: each case compiles a whole network.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "ablation"), [("corrected", "net3"), ("paper", "net3"), ("released", "net3"), ("corrected", "net0")]
)
def test_a_compiled_model_equals_eager_without_a_graph_break(preset, ablation):
    model = small_model(preset=preset, ablation=ablation)
    images = images_for(model)
    expected = outputs_of(model, images)
    torch.compiler.reset()
    # aot_eager traces the same single graph, forward and backward, without a C++ compiler.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert_same(outputs_of(compiled, images), expected)
    _, plain = gradients_of(model, images, labels_for(model, 2))
    model.zero_grad()
    compiled(images, labels=labels_for(model, 2)).loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_inductor_gives_eager_numbers():
    model = small_model()
    images = images_for(model)
    expected = outputs_of(model, images)
    torch.compiler.reset()
    assert_same(outputs_of(torch.compile(model, fullgraph=True), images), expected, 1e-4)


def test_a_compiled_model_sees_weights_that_change_afterwards():
    model = small_model()
    images = images_for(model)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    outputs_of(compiled, images)
    with torch.no_grad():
        model.get_parameter("cssfe.label_encoder.projection.weight").mul_(1.5)
    assert_same(outputs_of(compiled, images), outputs_of(model, images))


# torch.export.


class Logits(nn.Module):
    model: Any

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values=pixel_values).logits


@pytest.mark.parametrize(
    ("preset", "ablation"),
    [*((preset, "net3") for preset in PRESETS), *(("corrected", name) for name in ABLATIONS[:3])],
)
def test_an_exported_model_takes_any_batch_and_equals_eager(preset, ablation):
    model = small_model(preset=preset, ablation=ablation)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        Logits(model), (images_for(model, 2),), dynamic_shapes={"pixel_values": {0: batch}}, strict=False
    )
    for size in (1, 2, 5):
        images = images_for(model, size, seed=size)
        assert_same({"logits": program.module()(images)}, {"logits": outputs_of(model, images)["logits"]})


# Precision.


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("preset", PRESETS)
def test_autocast_is_close_to_fp32_and_its_gradients_are_finite(preset, dtype, tolerance):
    torch.manual_seed(0)
    model = CSSFEForImageClassification(small_config(preset=preset)).eval()
    images = images_for(model)
    expected = outputs_of(model, images)
    with torch.autocast("cpu", dtype):
        assert_same(outputs_of(model, images), expected, tolerance)
        out = model(images, labels=labels_for(model, 2))
    assert out.loss.dtype == torch.float32
    out.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("pooling", ["mean", "relu", "softmax"])
def test_large_maps_do_not_overflow_fp16(pooling):
    """A sum over positions before its division would leave fp16's range, 65,504."""
    from modeling_cssfe.layers_cssfe import pool_features

    features, maps = torch.full((1, 4, 56, 56), 30.0), torch.full((1, 2, 56, 56), 30.0)
    pooled = pool_features(features.half(), maps.half(), pooling)
    expected = 30.0 if pooling == "softmax" else 900.0
    torch.testing.assert_close(pooled.float(), torch.full((1, 2, 4), expected), rtol=1e-2, atol=0)


def test_double_precision_models_run():
    model = small_model().double()
    out = model(images_for(model).double(), labels=labels_for(model, 2))
    assert out.logits.dtype == torch.float64
    single = small_model()
    torch.testing.assert_close(out.logits.float(), single(images_for(single)).logits, rtol=1e-4, atol=1e-4)


# Memory.


@pytest.mark.filterwarnings("ignore:.*checkpointing.*deprecated:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_gradient_checkpointing_gives_the_same_loss_and_gradients(ablation, reentrant):
    no_dropout: dict[str, Any] = {"label_dropout": 0.0, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = small_model(ablation=ablation, **no_dropout).train()
    images = images_for(model, 3)
    twin = copy.deepcopy(model)
    plain = gradients_of(model, images, labels_for(model, 3))
    twin.gradient_checkpointing_enable({"use_reentrant": reentrant})
    assert twin.is_gradient_checkpointing
    recomputed = gradients_of(twin, images, labels_for(model, 3))
    assert recomputed[0] == plain[0]
    for name, gradient in plain[1].items():
        torch.testing.assert_close(recomputed[1][name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*checkpointing.*deprecated:FutureWarning")
def test_gradient_checkpointing_recomputes_the_backbone_and_the_fusion_block():
    model = small_model().train()
    model.gradient_checkpointing_enable()
    calls = {"stage": 0, "block": 0}

    def count(name):
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    model.cssfe.backbone.timm_model.layer1[0].conv1.register_forward_hook(count("stage"))
    model.cssfe.fusion.block.intermediate.register_forward_hook(count("block"))
    model(images_for(model), labels=labels_for(model, 2)).loss.backward()
    assert calls == {"stage": 2, "block": 2}
    model.gradient_checkpointing_disable()
    model(images_for(model), labels=labels_for(model, 2)).loss.backward()
    assert calls == {"stage": 3, "block": 3}


@pytest.mark.filterwarnings("ignore:.*checkpointing.*deprecated:FutureWarning")
@pytest.mark.parametrize("ablation", ["net0", "net3"])
def test_a_backbone_that_cannot_recompute_activations_says_so(ablation):
    model = CSSFEForImageClassification(
        small_config(backbone="vgg11", backbone_kwargs=None, image_size=32, ablation=ablation)
    )
    with pytest.raises(ValueError, match="'vgg11' cannot recompute activations") as caught:
        model.gradient_checkpointing_enable()
    assert "\n" not in str(caught.value)
    assert not model.cssfe.backbone.gradient_checkpointing
    model.gradient_checkpointing_disable()


@pytest.mark.parametrize("preset", PRESETS)
def test_channels_last_gives_the_same_numbers_and_gradients(preset):
    model = small_model(preset=preset)
    images = images_for(model)
    expected, plain = outputs_of(model, images), gradients_of(model, images, labels_for(model, 2))
    model = model.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    assert_same(outputs_of(model, images), expected)
    loss, gradients = gradients_of(model, images, labels_for(model, 2))
    assert loss == pytest.approx(plain[0], rel=1e-5)
    for name, gradient in plain[1].items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_ten_thousand_classes_never_hold_a_square_matrix():
    """Above `ENHANCEMENT_ROWS` classes the (C, C) attention exists a block of rows at a time, also in the backward."""
    from modeling_cssfe.layers_cssfe import ENHANCEMENT_ROWS, CSSFEMapEnhancement

    classes = 2 * ENHANCEMENT_ROWS + 100
    config = small_config(num_labels=5, class_counts=[1 + index % 150 for index in range(classes)])
    torch.manual_seed(0)
    enhancement = CSSFEMapEnhancement(config, 8, (1, 1))
    tokens = torch.randn(classes, 8, requires_grad=True)
    ranks = torch.tensor(config.group_ranks)
    largest = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor):
                largest.append(result.numel())
            return result

    with Watch():
        enhanced, weights = enhancement(torch.randn(1, classes, 1, 1), tokens, ranks)
        enhanced.square().sum().backward()
    assert weights is None
    assert max(largest) <= ENHANCEMENT_ROWS * classes
    assert tokens.grad is not None
    assert tokens.grad.isfinite().all()
    assert tokens.grad.any()
    attention = enhancement.class_attention(tokens, ranks)
    whole, _ = enhancement(torch.ones(1, classes, 1, 1), tokens, ranks, attention)
    again, _ = enhancement(torch.ones(1, classes, 1, 1), tokens, ranks)
    torch.testing.assert_close(whole, again)


def test_enlarged_weights_differ_from_the_initial_ones():
    """The models of these tests are not near zero, where everything agrees."""
    model = small_model()
    images = images_for(model)
    assert outputs_of(model, images)["logits"].std() > 0.1
    assert outputs_of(enlarge_weights(model, 5), images)["logits"].std() > 0.1
