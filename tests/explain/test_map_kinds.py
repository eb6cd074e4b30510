"""Maps by kind against closed forms, slow loops and pytorch-grad-cam."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.explain import MAP_KINDS, available_kinds, compute_maps, explain_batch, find_layer


GRADIENT_KINDS = [name for name, kind in MAP_KINDS.items() if kind.weigh is not None]
BACKBONES = {
    "cnn": {"backbone": "test_resnet", "backbone_kwargs": {"channels": [4, 8, 8, 12]}},
    "tokens": {"backbone": "test_vit"},
    "channels_last": {
        "backbone": "swin_tiny_patch4_window7_224",
        "backbone_kwargs": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2},
    },
}
# A layer of each architecture in the middle of it.
LAYERS = {"cnn": "layer3", "tokens": "blocks.1", "channels_last": "layers.2"}


def build(ablation="net3", backbone="cnn", size=(64, 96), **overrides):
    torch.manual_seed(0)
    config = CSSFEConfig(
        **BACKBONES[backbone],
        image_size=list(size),
        class_counts=[500, 5, 30, 100, 19],
        ablation=ablation,
        label_embedding_dim=7,
        hidden_size=8,
        num_attention_heads=2,
        attention_head_dim=4,
        intermediate_size=14,
        **overrides,
    )
    model = CSSFEForImageClassification(config).eval()
    with torch.no_grad():  # weights at which every term shows
        for name, parameter in model.named_parameters():
            if ".backbone." not in name and parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) / parameter[0].numel() ** 0.5)
            elif ".bn" in name and name.endswith("weight"):  # timm starts residual branches at 0
                parameter.fill_(1)
    return model


def images(batch=2, size=(64, 96)):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


class Logits(nn.Module):
    """What pytorch-grad-cam asks for: a module that returns the logits."""

    def __init__(self, model, factor=1.0):
        super().__init__()
        self.model = model
        self.factor = factor

    def forward(self, pixel_values):
        return self.factor * self.model(pixel_values).logits


def library_maps(kind, model, module, pixels, targets, reshape=None):
    """Maps before scaling, one label after the other, by pytorch-grad-cam."""
    library = pytest.importorskip("pytorch_grad_cam", reason="grad-cam is not installed")
    method = {
        "grad_cam": library.GradCAM,
        "grad_cam_plus_plus": library.GradCAMPlusPlus,
        "layer_cam": library.LayerCAM,
    }[kind]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps = []
    with method(model, [module], reshape_transform=reshape) as explainer:
        for target in targets:
            explainer(pixels, [ClassifierOutputTarget(target)] * len(pixels))
            record = explainer.activations_and_grads
            raw = explainer.get_cam_image(
                pixels, module, None, record.activations[0].numpy(), record.gradients[0].numpy(), False
            )
            maps.append(np.maximum(raw, 0))
    return torch.tensor(np.stack(maps, axis=1))


def test_the_map_of_net0_averages_to_its_logit():
    model = build("net0")
    with torch.no_grad():
        logits = model(images()).logits
    maps = compute_maps(model, images(), "cam")
    assert torch.equal(maps.mean(dim=(2, 3)), logits)


def test_grad_cam_of_net0_at_the_last_layer_is_the_positive_part_of_the_map_without_its_bias():
    model = build("net0")
    maps = compute_maps(model, images(), "cam").double()
    bias = model.cssfe.class_activation.bias.detach().double()
    # d logit / d F = w / (H W) at every position, so the weighted sum is (CAM - bias) / (H W).
    expected = (maps - bias[None, :, None, None]).relu() / maps[0, 0].numel()
    torch.testing.assert_close(compute_maps(model, images(), "grad_cam").double(), expected, rtol=1e-5, atol=1e-8)
    # LayerCAM leaves out the channels that speak against the label.
    features = model.cssfe(images()).last_hidden_state.detach().double()
    weights = model.cssfe.class_activation.weight.detach().double()[:, :, 0, 0].relu()
    expected = torch.einsum("cd,bdhw->bchw", weights, features).relu() / maps[0, 0].numel()
    torch.testing.assert_close(compute_maps(model, images(), "layer_cam").double(), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("layer", [None, "layer3", "layer2.0.bn1"])
@pytest.mark.parametrize("ablation", ["net0", "net1", "net3"])
def test_grad_cam_and_layer_cam_equal_the_library(ablation, layer):
    model, copy = build(ablation), build(ablation)
    targets = [4, 0, 2]
    _, module = find_layer(copy, layer)
    for other in copy.modules():
        if isinstance(other, nn.ReLU):
            other.inplace = False  # on the CPU the library's record of bn1 would be what the ReLU writes over it
    for kind in ("grad_cam", "layer_cam"):
        expected = library_maps(kind, Logits(copy), module, images(), targets)
        found = compute_maps(model, images(), kind, targets, layer)
        assert expected.abs().max() > 1e-6
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["grad_cam", "layer_cam"])
@pytest.mark.parametrize("backbone", ["tokens", "channels_last"])
def test_maps_in_the_middle_of_tokens_and_channels_last_equal_the_library(backbone, kind):
    size = (64, 64) if backbone == "channels_last" else (64, 96)
    model = build("net3", backbone, size)
    pixels = images(2, size)
    _, module = find_layer(model, LAYERS[backbone])
    prefix = model.cssfe.backbone.num_prefix_tokens

    def reshape(tensor):
        if backbone == "tokens":
            rows, columns = model.cssfe.backbone.map_size
            tensor = tensor[:, prefix:].reshape(len(tensor), rows, columns, -1)
        return tensor.permute(0, 3, 1, 2)

    expected = library_maps(kind, Logits(model), module, pixels, [1, 3], reshape)
    found = compute_maps(model, pixels, kind, [1, 3], LAYERS[backbone])
    assert expected.abs().max() > 1e-8
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_grad_cam_plus_plus_equals_the_library_where_its_constant_is_small():
    # The library adds 1e-6 to a denominator of squared gradients; with logits 1e4 times as large that is nothing.
    model = Logits(build("net0"), 1e4)
    module = model.model.cssfe.feature_projection
    expected = library_maps("grad_cam_plus_plus", model, module, images(), [1, 4])
    found = compute_maps(model, images(), "grad_cam_plus_plus", [1, 4], module)
    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_grad_cam_plus_plus_equals_its_formula_written_out():
    model = build("net3")
    pixels = images(1)
    features = model.cssfe(pixels).last_hidden_state[0].detach().double()
    slow = build("net3").double()
    leaf = features.clone()[None].requires_grad_()
    label_tokens, attention = slow.cssfe.label_side()
    cams = slow.cssfe.class_activation(leaf)
    enhanced, _ = slow.cssfe.enhancement(cams, label_tokens, slow.cssfe.group_ranks, attention)
    pooled = torch.einsum("bdhw,bchw->bcd", leaf, enhanced.relu()) / enhanced[0, 0].numel()
    logits = slow.classifier(slow.cssfe.fusion(pooled, label_tokens), label_tokens[None])
    gradient = torch.autograd.grad(logits[0, 2], leaf)[0][0]
    expected = torch.zeros(features.shape[1:], dtype=torch.float64)
    for channel, own in zip(features, gradient, strict=True):
        weight = 0.0
        for position in own.flatten():
            if position > 0:
                weight += position * position**2 / (2 * position**2 + channel.sum() * position**3)
        expected += weight * channel
    found = compute_maps(model, pixels, "grad_cam_plus_plus", [2])[0, 0]
    torch.testing.assert_close(found.double(), expected.relu(), rtol=1e-4, atol=1e-6 * expected.abs().max().item())


@pytest.mark.parametrize("kind", MAP_KINDS)
def test_a_batch_gives_what_single_images_and_single_labels_give(kind):
    model = build("net3")
    pixels = images(3)
    together = compute_maps(model, pixels, kind, [3, 1])
    assert together.shape == (3, 2, 2, 3)
    assert together.dtype == torch.float32
    assert not together.requires_grad
    alone = torch.stack([
        torch.stack([compute_maps(model, pixel[None], kind, [target])[0, 0] for target in (3, 1)]) for pixel in pixels
    ])  # fmt: skip
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * together.abs().max().item())
    # Labels of each image for itself.
    mixed = compute_maps(model, pixels, kind, torch.tensor([[1], [3], [1]]))
    torch.testing.assert_close(mixed[:, 0], together[[0, 1, 2], [1, 0, 1]], rtol=1e-4, atol=1e-6)


def test_labels_that_do_not_fit_in_memory_at_once_come_out_the_same(monkeypatch):
    model = build("net3")
    expected = compute_maps(model, images(), "grad_cam")
    monkeypatch.setattr("modeling_cssfe.explain.gradient_maps.GRADIENT_ENTRIES", 1)
    torch.testing.assert_close(compute_maps(model, images(), "grad_cam"), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_all_labels_take_one_backward_pass(attention, monkeypatch, recwarn):
    model = build("net3")
    model.set_attn_implementation(attention)
    calls = []
    differentiate = torch.autograd.grad
    monkeypatch.setattr(
        torch.autograd, "grad", lambda *args, **kwargs: [calls.append(1), differentiate(*args, **kwargs)][1]
    )
    compute_maps(model, images(), "grad_cam")
    assert len(calls) == 1
    assert not [str(warning.message) for warning in recwarn]


def test_several_kinds_come_from_one_forward_pass():
    model = build("net3")
    calls = []
    model.cssfe.backbone.register_forward_hook(lambda *_: calls.append(1))
    batch = explain_batch(model, images(), list(MAP_KINDS), top_k=2)
    assert len(calls) == 1
    assert list(batch.maps) == list(MAP_KINDS)
    with torch.no_grad():
        output = model(images())
    assert torch.equal(batch.targets, output.logits.topk(2).indices)
    torch.testing.assert_close(batch.logits, output.logits)
    for row, targets in enumerate(batch.targets):
        torch.testing.assert_close(batch.maps["cam"][row], output.class_activation_maps[row, targets])
        torch.testing.assert_close(batch.maps["enhanced"][row], output.enhanced_activation_maps[row, targets])


def test_with_the_mask_off_a_head_class_receives_from_every_class():
    model = build("net3")
    with torch.no_grad():
        cams = compute_maps(model, images(), "cam").flatten(2)
        tokens, _ = model.cssfe.label_side()
        enhancement = model.cssfe.enhancement
        scores = enhancement.query(tokens) @ enhancement.key(tokens).T / 8**0.5
        expected = cams + scores.softmax(dim=-1) @ cams  # preset "corrected": residual, no V
    found = compute_maps(model, images(), "unmasked").flatten(2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    enhanced = compute_maps(model, images(), "enhanced").flatten(2)
    assert not torch.allclose(found[:, 0], enhanced[:, 0])  # class 0 is head
    torch.testing.assert_close(found[:, 1], enhanced[:, 1])  # class 1 is tail, and the mask withholds nothing from it


def test_the_model_is_left_as_it_was():
    model = build("net3").train()
    model.cssfe.class_activation.eval()
    before = {name: module.training for name, module in model.named_modules()}
    with torch.no_grad():
        maps = compute_maps(model, images(), "grad_cam", [0])
        assert not torch.is_grad_enabled()
    assert {name: module.training for name, module in model.named_modules()} == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.cssfe.feature_projection._forward_hooks
    with torch.inference_mode():
        again = compute_maps(model, images(), "grad_cam", [0])
    torch.testing.assert_close(maps, again)


def test_gradient_checkpointing_changes_nothing_and_stays_on():
    model = build("net3")
    expected = compute_maps(model, images(), "grad_cam", [0], "layer2")
    model.cssfe.backbone.set_grad_checkpointing(True)
    assert torch.equal(compute_maps(model, images(), "grad_cam", [0], "layer2"), expected)
    assert model.cssfe.backbone.timm_model.grad_checkpointing is True


@pytest.mark.parametrize("kind", MAP_KINDS)
def test_half_precision_gives_the_same_maps_roughly_and_in_single_precision(kind):
    expected = compute_maps(build("net3"), images(), kind)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = compute_maps(build("net3"), images(), kind)
    half = compute_maps(build("net3").to(torch.bfloat16), images(), kind)
    for found in (autocast, half):
        assert found.dtype == torch.float32
        # bf16 keeps 8 bits; a random network with large weights multiplies its rounding.
        assert (found - expected).abs().max() < 0.15 * expected.abs().max()


@pytest.mark.parametrize("ablation", ["net0", "net1", "net2", "net3"])
def test_available_kinds_are_those_that_can_be_computed(ablation):
    model = build(ablation)
    for kind in MAP_KINDS:
        if kind in available_kinds(model):
            assert torch.isfinite(compute_maps(model, images(), kind, [0])).all()
        else:
            with pytest.raises(ValueError, match=f"'{ablation}' has no maps '{kind}'; choose among"):
                compute_maps(model, images(), kind, [0])


def test_a_classifier_that_is_no_cssfe_is_explained_at_a_named_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    found = compute_maps(model, images(), "grad_cam", [1], "0")
    with torch.no_grad():
        convolved = F.conv2d(images(), model[0].weight, model[0].bias, stride=8)
        # The logit of class 1 is the mean of channel 1's positive part.
        weight = (convolved[:, 1] > 0).float().mean(dim=(1, 2)) / convolved[0, 0].numel()
        expected = (weight[:, None, None] * convolved[:, 1]).relu()
    torch.testing.assert_close(found[:, 0], expected)
    with pytest.raises(ValueError, match="is no CSSFE model; name the layer"):
        compute_maps(model, images(), "grad_cam", [1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "gradcam"}, "did you mean 'grad_cam'"),
        ({"kind": "grad_cam", "layer": "layer33"}, "no layer 'layer33'; did you mean 'layer3'"),
        ({"kind": "grad_cam", "layer": "cssfe.fusion"}, "has no positions"),
        ({"kind": "grad_cam", "layer": "global_pool"}, "do not depend on the layer"),
        ({"kind": "cam", "layer": "layer3"}, "have no layer"),
        ({"kind": "cam", "targets": [5]}, r"beyond the classes 0 to 4"),
        ({"kind": "cam", "targets": []}, "no class ids"),
        ({"kind": "cam", "targets": torch.zeros(3, 1, dtype=torch.long)}, r"give K class ids, or \(2, K\)"),
    ],
)
def test_mistakes_are_named_in_one_line(options, message):
    with pytest.raises(ValueError, match=message) as caught:
        compute_maps(build("net3"), images(), **options)
    assert "\n" not in str(caught.value)
