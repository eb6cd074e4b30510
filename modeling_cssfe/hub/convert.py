# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""From checkpoints of the released code to this package's names.

Only names are translated, and one fused matrix is split: every number stays what it was.
"""

import re
from collections.abc import Mapping

import torch

from ..configuration_cssfe import CSSFEConfig
from ..modeling_cssfe import CSSFEForImageClassification


# Their name of a module -> ours. A part of their network has one line here, whatever its tensors are.
_HEAD = {
    "onebyone_conv": "cssfe.class_activation",
    "label_emb.0": "cssfe.label_encoder.projection.0",
    "label_emb.3": "cssfe.label_encoder.projection.3",
    "SFC.W_q": "cssfe.enhancement.query",
    "SFC.W_k": "cssfe.enhancement.key",
    "SFC.adjust_generator.0": "cssfe.enhancement.gate",
    "attention.layers.0.0.norm": "cssfe.fusion.block.attention_norm",
    "attention.layers.0.0.fn.to_out.0": "cssfe.fusion.block.attention.output",
    "attention.layers.0.1.norm": "cssfe.fusion.block.feed_forward_norm",
    "attention.layers.0.1.fn.net.0": "cssfe.fusion.block.intermediate",
    "attention.layers.0.1.fn.net.3": "cssfe.fusion.block.output",
}
_FUSED = "attention.layers.0.0.fn.to_qkv.weight"
_SPLIT = tuple(f"cssfe.fusion.block.attention.{part}.weight" for part in ("query", "key", "value"))

# Their ResNet is a Sequential of torchvision's children; numbers 2 and 3, ReLU and pooling, hold no tensors.
_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_BACKBONE_ALIASES = ("Backbone.", "feature_extractor.")

# What their network carries and ours does not.
_DROPPED = {
    "conv1d.": "never used",
    "conv1d1.": "never used",
    "text_encoder.": "its output is our `label_embeddings`",
    "Backbone.fc.": "ImageNet classifier",
    "feature_extractor.fc.": "ImageNet classifier",
}


def convert_released_state_dict(
    state_dict: Mapping[str, torch.Tensor], config: CSSFEConfig | None = None
) -> dict[str, torch.Tensor]:
    """Translate a state dict of the released code into one of `CSSFEForImageClassification`.

    The names are those of the authors' model file: the backbone twice, as `Backbone` and `feature_extractor` (one
    module under two names), `onebyone_conv`, `label_emb`, `SFC` with `W_q`, `W_k` and `adjust_generator`, and
    `attention.layers.0` with attention and feed-forward net behind a norm each. Their ViT is timm's, under
    `feature_extractor.model`, with a 1x1 convolution `feature_extractor.conv`. A `module.` in front of every name, left
    by data-parallel training, is taken off. Assumed, as no checkpoint has been published: files hold the bare state
    dict. VGG-16 is not translated, since the published file has no code for it.

    The result lacks `cssfe.label_embeddings`. The released code trains its text tower with the rest, so the embeddings
    that belong to a checkpoint are what its own `text_encoder` gives for the class names; set them with
    `set_label_embeddings`.

    Args:
        state_dict: Tensors by the authors' names; not changed.
        config: The configuration of the model to fill, `preset="released"`. With it, shapes are checked too.

    Returns:
        Tensors by our names, in their own dtype; those that are not split share memory with the input.

    Raises:
        ValueError: Unknown keys, missing keys, two copies of the backbone that differ, or shapes that do not fit
            `config`; all of them by name in one message.

    Example:

    ```python
    >>> from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
    >>> from modeling_cssfe.hub import convert_released_state_dict
    >>> from safetensors.torch import load_file

    >>> config = CSSFEConfig(preset="released", class_counts=counts, label_embedding_dim=1024)  # doctest: +SKIP
    >>> model = CSSFEForImageClassification(config)  # doctest: +SKIP
    >>> converted = convert_released_state_dict(load_file("released.safetensors"), config)  # doctest: +SKIP
    >>> model.load_state_dict(converted, strict=False).missing_keys  # doctest: +SKIP
    ['cssfe.label_embeddings']

    ```
    """
    source = dict(state_dict)
    if source and all(key.startswith("module.") for key in source):
        source = {key.removeprefix("module."): tensor for key, tensor in source.items()}
    converted: dict[str, torch.Tensor] = {}
    unknown, differing = [], []
    for key, tensor in source.items():
        if key.startswith(tuple(_DROPPED)):
            continue
        if key == _FUSED:
            # (3 * heads * head_dim, h), queries first -> three of (heads * head_dim, h)
            converted.update(zip(_SPLIT, (part.clone() for part in tensor.chunk(3)), strict=True))
            continue
        name = _translate(key)
        if name is None:
            unknown.append(key)
        elif name in converted and not torch.equal(converted[name], tensor):
            differing.append(key)
        else:
            converted[name] = tensor
    expected = [f"{ours}.{tensor}" for ours in _HEAD.values() for tensor in ("weight", "bias")] + list(_SPLIT)
    missing = [name for name in expected if name not in converted]
    if not any(name.startswith("cssfe.backbone.") for name in converted):
        missing.append("cssfe.backbone.*")
    problems = {
        "unknown keys": unknown,
        "backbone tensors that differ from their copy under the other name": differing,
        "no keys for": missing,
        **({} if config is None else _compare_with_model(converted, config)),
    }
    found = "; ".join(f"{problem} {', '.join(keys)}" for problem, keys in problems.items() if keys)
    if found:
        raise ValueError(f"not a state dict of the released code: {found}. Check where the file comes from.")
    return converted


def _translate(key: str) -> str | None:
    """Our name for one of theirs, or `None`."""
    for alias in _BACKBONE_ALIASES:
        if key.startswith(alias):
            return _translate_backbone(key.removeprefix(alias))
    module, _, tensor = key.rpartition(".")
    if module in _HEAD and tensor in ("weight", "bias"):
        return f"{_HEAD[module]}.{tensor}"
    return None


def _translate_backbone(key: str) -> str | None:
    first, _, rest = key.partition(".")
    if first == "model" and rest:
        return f"cssfe.backbone.timm_model.{rest}"
    if first == "conv":
        return f"cssfe.feature_projection.{rest}"
    # timm and torchvision name a ResNet's tensors alike.
    if first in _RESNET:
        return f"cssfe.backbone.timm_model.{_RESNET[first]}.{rest}"
    return f"cssfe.backbone.timm_model.{key}" if re.match(r"(conv1|bn1|layer[1-4])\.", key) else None


def _compare_with_model(converted: dict[str, torch.Tensor], config: CSSFEConfig) -> dict[str, list[str]]:
    with torch.device("meta"):
        expected = CSSFEForImageClassification(config).state_dict()
    del expected["cssfe.label_embeddings"]
    shapes = [
        f"{name} {tuple(converted[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in converted and converted[name].shape != tensor.shape
    ]
    return {
        "tensors that the configured model lacks": sorted(converted.keys() - expected.keys()),
        "no tensors for": sorted(expected.keys() - converted.keys()),
        "shapes that do not fit the configuration": shapes,
    }


__all__ = ["convert_released_state_dict"]
