"""Feature maps of photographs from a frozen backbone, cached, so that a head of any ablation trains in about a minute.

The cache is the package's (`modeling_cssfe.training.feature_cache`): a view is one way of looking at every training
image, `plain`, `flip`, or a random resized crop (`crop0`, `crop1`, ...), flipped at random. Views stand in for
augmentation. Validation has `plain` and `flip`, for test-time augmentation.
"""

from functools import partial

import torch
from torch import nn

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.backbone_cssfe import CSSFEBackbone, load_backbone_weights
from modeling_cssfe.data import label_matrix, load_images
from modeling_cssfe.training.environment import computes_in_bf16
from modeling_cssfe.training.feature_cache import FeatureCache, FeatureViews
from modeling_cssfe.training.frozen_features import FeatureFeed


def extract(arguments, split: str, views: list[str]) -> dict[str, dict[str, torch.Tensor]]:
    """For each view `{"features": (N, D, H, W) bfloat16, "labels": (N, C)}` of a split, cached."""
    config = CSSFEConfig(
        backbone=arguments.backbone,
        image_size=arguments.image_size,
        ablation="net0",
        stride_in_first_convolution=arguments.stride_in_first_convolution,
    )
    backbone = CSSFEBackbone(config)
    load_backbone_weights(backbone, arguments.backbone_weights)
    bf16 = computes_in_bf16("cpu")
    cache = FeatureCache(
        arguments.cache,
        backbone.to(memory_format=torch.channels_last),
        config,
        autocast=partial(torch.autocast, "cpu", torch.bfloat16, enabled=bf16),
        computed_in="bf16" if bf16 else "no",
        batch_size=16,
        progress=True,
    )
    dataset = load_images(arguments.data)[split]
    labels = torch.from_numpy(label_matrix(dataset)).float()
    all_views = FeatureViews(64, crop_scale=(0.4, 1.0)).names
    number = 1 + max(all_views.index(view) for view in views)
    maps = cache.maps(dataset, split, FeatureViews(number, crop_scale=(0.4, 1.0)))
    return {view: {"features": maps[view], "labels": labels} for view in views}


class Head(nn.Module):
    """A CSSFE model without its backbone: `(B, D, H, W)` features to logits."""

    def __init__(self, config: CSSFEConfig, label_embeddings: torch.Tensor | None = None):
        super().__init__()
        self.model = CSSFEForImageClassification(config)
        self.model.cssfe.backbone.requires_grad_(False)
        self.model.cssfe.feature_projection = nn.Identity()  # the maps are wider than the small backbone's
        FeatureFeed(self.model)
        if label_embeddings is not None and config.uses_fusion:
            self.model.cssfe.set_label_embeddings(label_embeddings)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.model(features).logits
