# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints with the released code's names: translated, they give the same logits."""

import math
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.hub import convert_released_state_dict


COUNTS = [30, 5, 500, 100, 19]
CLASSES, TEXT_WIDTH, HEADS, HEAD_DIM, FEED_FORWARD, SIDE = len(COUNTS), 6, 2, 5, 14, 2


class Normed(nn.Module):
    """A norm and what follows it, under the names `norm` and `fn`."""

    def __init__(self, width, fn):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn


class Released(nn.Module):
    """A small network with the released network's tensors under its names, computed the plain way."""

    Backbone: Any
    feature_extractor: Any
    attention: Any
    SFC: Any

    def __init__(self, backbone, width):
        super().__init__()
        inner = HEADS * HEAD_DIM
        if isinstance(backbone, torchvision.models.ResNet):
            self.Backbone = nn.Sequential(*list(backbone.children())[:-2])
            self.feature_extractor = self.Backbone
        else:
            self.feature_extractor = nn.Module()
            self.feature_extractor.model = backbone
            self.feature_extractor.conv = nn.Conv2d(backbone.num_features, width, 1)
        attention: Any = nn.Module()
        feed_forward: Any = nn.Module()
        attention.to_qkv = nn.Linear(width, 3 * inner, bias=False)
        attention.to_out = nn.Sequential(nn.Linear(inner, width))
        feed_forward.net = nn.Sequential(
            nn.Linear(width, FEED_FORWARD), nn.GELU(), nn.Identity(), nn.Linear(FEED_FORWARD, width)
        )
        self.attention = nn.Module()
        self.attention.layers = nn.ModuleList([nn.ModuleList([Normed(width, attention), Normed(width, feed_forward)])])
        self.text_encoder = nn.Module()
        self.text_encoder.token_embedding = nn.Embedding(10, TEXT_WIDTH)
        self.label_emb = nn.Sequential(
            nn.Linear(TEXT_WIDTH, 2 * width), nn.GELU(), nn.Identity(), nn.Linear(2 * width, width)
        )
        self.onebyone_conv = nn.Conv2d(width, CLASSES, 1)
        self.conv1d = nn.Conv1d(width, CLASSES, 1)
        self.conv1d1 = nn.Conv1d(width, CLASSES, 1)
        self.SFC = nn.Module()
        self.SFC.W_q = nn.Linear(width, width)
        self.SFC.W_k = nn.Linear(width, width)
        self.SFC.adjust_generator = nn.Sequential(nn.Linear(width, SIDE * SIDE), nn.Sigmoid())
        self.ranks = [0 if count >= 100 else 1 if count >= 20 else 2 for count in COUNTS]

    def features(self, images):
        if hasattr(self, "Backbone"):
            return self.Backbone(images)
        patches = self.feature_extractor.model.forward_features(images)[:, 1:]
        return self.feature_extractor.conv(patches.transpose(1, 2).unflatten(2, (SIDE, SIDE)))

    def forward(self, images, embeddings):
        features = self.features(images)
        labels = self.label_emb(embeddings)
        maps = self.onebyone_conv(features).flatten(2)
        mask = torch.tensor([[float(giver <= receiver) for giver in self.ranks] for receiver in self.ranks])
        scores = self.SFC.W_q(labels) @ self.SFC.W_k(labels).T / math.sqrt(labels.shape[1])
        enhanced = (maps + (scores * mask).softmax(1) @ maps) * self.SFC.adjust_generator(labels)
        pooled = (enhanced[:, :, None] * features.flatten(2)[:, None]).mean(-1)
        tokens = torch.cat([pooled, labels.expand(len(images), -1, -1)], dim=1)
        (first, second) = self.attention.layers[0]
        query, key, value = (
            part.unflatten(-1, (HEADS, HEAD_DIM)).transpose(1, 2)
            for part in first.fn.to_qkv(first.norm(tokens)).chunk(3, dim=-1)
        )
        weights = (query @ key.transpose(2, 3) / math.sqrt(HEAD_DIM)).softmax(-1)
        tokens = first.fn.to_out((weights @ value).transpose(1, 2).flatten(2))
        tokens = second.fn.net(second.norm(tokens))
        return (tokens[:, CLASSES:] * labels).sum(-1)


def released_resnet():
    torch.manual_seed(0)
    network = Released(torchvision.models.resnet18(), 512).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network, released_config("resnet18", 512, 64)


def released_vit():
    torch.manual_seed(0)
    backbone = timm.create_model("test_vit", num_classes=0, img_size=SIDE * 16)
    return Released(backbone, 24).eval(), released_config("test_vit", 24, SIDE * 16)


def released_config(backbone, width, image_size):
    return CSSFEConfig(
        backbone=backbone,
        preset="released",
        image_size=image_size,
        class_counts=COUNTS,
        label_embedding_dim=TEXT_WIDTH,
        feature_size=width,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        intermediate_size=FEED_FORWARD,
    )


@pytest.fixture(scope="module")
def released():
    return released_resnet()


@pytest.mark.parametrize("build", [released_resnet, released_vit])
def test_a_converted_checkpoint_gives_the_released_networks_logits(build):
    network, config = build()
    images = torch.randn(2, 3, *config.image_height_and_width)
    embeddings = torch.randn(CLASSES, TEXT_WIDTH)
    with torch.no_grad():
        expected = network(images, embeddings)
    model = CSSFEForImageClassification(config).eval()
    result = model.load_state_dict(convert_released_state_dict(network.state_dict(), config), strict=False)
    assert result.missing_keys == ["cssfe.label_embeddings"]
    assert result.unexpected_keys == []
    model.set_label_embeddings(embeddings)
    with torch.no_grad():
        actual = model(images).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_names_translated_and_back_give_every_tensor_to_the_bit(released):
    network, config = released
    state = network.state_dict()
    converted = convert_released_state_dict(state, config)
    back = {
        "onebyone_conv": "class_activation",
        "label_emb.0": "label_encoder.projection.0",
        "label_emb.3": "label_encoder.projection.3",
        "SFC.W_q": "enhancement.query",
        "SFC.W_k": "enhancement.key",
        "SFC.adjust_generator.0": "enhancement.gate",
        "attention.layers.0.0.norm": "fusion.block.attention_norm",
        "attention.layers.0.0.fn.to_out.0": "fusion.block.attention.output",
        "attention.layers.0.1.norm": "fusion.block.feed_forward_norm",
        "attention.layers.0.1.fn.net.0": "fusion.block.intermediate",
        "attention.layers.0.1.fn.net.3": "fusion.block.output",
    }
    restored = {
        f"{theirs}.{tensor}": converted[f"cssfe.{ours}.{tensor}"]
        for theirs, ours in back.items()
        for tensor in ("weight", "bias")
    }
    restored["attention.layers.0.0.fn.to_qkv.weight"] = torch.cat(
        [converted[f"cssfe.fusion.block.attention.{part}.weight"] for part in ("query", "key", "value")]
    )
    children = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    for name, tensor in converted.items():
        if name.startswith("cssfe.backbone.timm_model."):
            child, _, rest = name.removeprefix("cssfe.backbone.timm_model.").partition(".")
            for alias in ("Backbone", "feature_extractor"):
                restored[f"{alias}.{children[child]}.{rest}"] = tensor
    dropped = ("conv1d.", "conv1d1.", "text_encoder.")
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(dropped)}
    assert restored.keys() == kept.keys()
    for key, tensor in kept.items():
        assert torch.equal(restored[key], tensor), key


def test_the_input_is_not_changed_and_nothing_split_shares_memory(released, tmp_path):
    from safetensors.torch import save_file

    state = released[0].state_dict()
    keys, sums = list(state), [tensor.sum() for tensor in state.values()]
    converted = convert_released_state_dict(state)
    assert list(state) == keys
    assert [tensor.sum() for tensor in state.values()] == sums
    save_file(converted, tmp_path / "converted.safetensors")  # refuses tensors that share memory


def test_one_name_of_the_backbone_is_enough(released):
    state = released[0].state_dict()
    whole = convert_released_state_dict(state)
    for alias in ("Backbone.", "feature_extractor."):
        half = {key: tensor for key, tensor in state.items() if not key.startswith(alias)}
        assert convert_released_state_dict(half).keys() == whole.keys()


def test_torchvisions_own_names_and_data_parallel_names_are_taken(released):
    state = released[0].state_dict()
    whole = convert_released_state_dict(state)
    children = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    named = {"module.feature_extractor.fc.weight": torch.zeros(3, 512)}
    for key, tensor in state.items():
        alias, _, rest = key.partition(".")
        if alias == "Backbone":
            continue
        if alias == "feature_extractor":
            number, _, rest = rest.partition(".")
            key = f"feature_extractor.{children[number]}.{rest}"
        named[f"module.{key}"] = tensor
    assert convert_released_state_dict(named).keys() == whole.keys()


def test_unknown_and_missing_keys_are_refused_by_name_in_one_line(released):
    state = dict(released[0].state_dict())
    state["SFC.W_v.weight"] = torch.zeros(2)
    state["Backbone.8.weight"] = torch.zeros(2)
    del state["SFC.W_q.bias"]
    with pytest.raises(ValueError, match=r"unknown keys SFC\.W_v\.weight, Backbone\.8\.weight") as caught:
        convert_released_state_dict(state)
    assert "no keys for cssfe.enhancement.query.bias" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_copies_of_the_backbone_that_differ_are_refused(released):
    state = dict(released[0].state_dict())
    state["Backbone.0.weight"] = state["Backbone.0.weight"] + 1
    with pytest.raises(ValueError, match=r"differ from their copy under the other name feature_extractor\.0\.weight"):
        convert_released_state_dict(state)


def test_shapes_that_do_not_fit_the_configuration_are_refused_by_name(released):
    network, config = released
    wrong = CSSFEConfig(**{**config.to_dict(), "id2label": None, "label2id": None, "class_counts": [1, 2, 3]})
    with pytest.raises(
        ValueError, match=r"cssfe\.class_activation\.weight \(5, 512, 1, 1\) instead of \(3, 512, 1, 1\)"
    ):
        convert_released_state_dict(network.state_dict(), wrong)


def test_an_empty_state_dict_is_refused():
    with pytest.raises(ValueError, match=r"cssfe\.backbone\.\*"):
        convert_released_state_dict({})
