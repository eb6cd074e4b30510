# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Small models that the tests of this folder share."""

from typing import Any

import torch

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification


# timm's test architecture, narrowed: 16 thousand parameters, 12 feature channels, stride 32.
SMALL_BACKBONE: dict[str, Any] = {"backbone": "test_resnet", "backbone_kwargs": {"channels": [4, 8, 8, 12]}}
FEATURES = 12
# Counts of classes 0 to 19: medium, tail and head in no order of the ids.
COUNTS = [30, 5, 500, 100, 19, 20, 7, 99, 250, 3, 1, 40, 775, 12, 55, 101, 6, 28, 2, 64]


def small_config(num_labels: int = 5, map_size: tuple[int, int] = (2, 3), **overrides) -> CSSFEConfig:
    settings = {
        **SMALL_BACKBONE,
        "image_size": [32 * map_size[0], 32 * map_size[1]],
        "class_counts": COUNTS[:num_labels],
        "label_embedding_dim": 7,
        "feature_size": 16,
        "num_attention_heads": 2,
        "attention_head_dim": 5,
        "intermediate_size": 14,
        **overrides,
    }
    if settings.get("preset", "corrected") == "corrected":
        settings.setdefault("hidden_size", 8)
    return CSSFEConfig(**settings)


def small_model(seed: int = 0, large_weights: bool = True, **overrides) -> CSSFEForImageClassification:
    torch.manual_seed(seed)
    model = CSSFEForImageClassification(small_config(**overrides)).eval()
    return enlarge_weights(model, seed) if large_weights else model


def enlarge_weights(model, seed: int = 0):
    """Weights of a size at which softmaxes are far from uniform and every term shows in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".backbone." in name:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            elif ("norm" in name and name.endswith("weight")) or name.endswith("value_scale"):
                parameter.copy_(1 + 0.4 * noise)
            else:
                parameter.copy_(0.5 * noise)
        if model.config.uses_fusion:
            embeddings = torch.randn(model.cssfe.label_embeddings.shape, generator=generator)
            model.set_label_embeddings(embeddings + 0.5)
        if getattr(model, "discriminant", None) is not None:
            for buffer in model.discriminant.buffers():
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return model


def images_for(model, batch: int = 2, seed: int = 1) -> torch.Tensor:
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, config.num_channels, *config.image_height_and_width, generator=generator)
