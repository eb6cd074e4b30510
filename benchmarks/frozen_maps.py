"""Feature maps of photographs from a frozen backbone, cached, so that a head of any ablation trains in about a minute.

The cache is the package's (`modeling_cssfe.training.feature_cache`): a view is one way of looking at every training
image, `plain`, `flip`, or a random resized crop (`crop0`, `crop1`, ...), flipped at random. Views stand in for
augmentation. Validation has `plain` and `flip`, for test-time augmentation.
"""

import argparse
from functools import partial

import torch
from torch import nn

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.backbone_cssfe import CSSFEBackbone, load_backbone_weights
from modeling_cssfe.common.environment import computes_in_bf16
from modeling_cssfe.data import label_matrix, load_images
from modeling_cssfe.modeling_cssfe import CSSFEImageClassifierOutput
from modeling_cssfe.training.feature_cache import FeatureCache, FeatureViews
from modeling_cssfe.training.frozen_features import FeatureFeed


def add_backbone_arguments(parser: argparse.ArgumentParser) -> None:
    """What says which images are looked at, and by which backbone."""
    parser.add_argument("--data", required=True, help="folder of Parquet files with train and validation")
    parser.add_argument("--backbone_weights", required=True, help="safetensors file")
    parser.add_argument("--backbone", default="resnet50", help="timm architecture")
    parser.add_argument(
        "--stride_in_first_convolution", action="store_true", help="the 2015 layout of ResNet-50, which Keras's has"
    )
    parser.add_argument("--image_size", type=int, default=320, help="image side in pixels")


def load_backbone(arguments) -> tuple[CSSFEConfig, CSSFEBackbone, nn.Module | None]:
    """The pretrained backbone; its last stage apart, and something that does nothing in its place, if one is named."""
    config = CSSFEConfig(
        backbone=arguments.backbone,
        image_size=arguments.image_size,
        ablation="net0",
        stride_in_first_convolution=arguments.stride_in_first_convolution,
    )
    backbone = CSSFEBackbone(config)
    load_backbone_weights(backbone, arguments.backbone_weights)
    backbone.eval()
    stage = None
    if arguments.last_stage is not None:
        stage = getattr(backbone.timm_model, arguments.last_stage)
        setattr(backbone.timm_model, arguments.last_stage, nn.Identity())
    return config, backbone, stage


def extract(
    arguments, config: CSSFEConfig, backbone: CSSFEBackbone, split: str, views: list[str]
) -> dict[str, dict[str, torch.Tensor]]:
    """For each view `{"features": (N, D, H, W) bfloat16, "labels": (N, C)}` of a split, cached."""
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
    """A CSSFE model without its backbone, or with its last stage alone: from `(B, D, H, W)` maps on."""

    def __init__(
        self, config: CSSFEConfig, label_embeddings: torch.Tensor | None = None, stage: nn.Module | None = None
    ):
        super().__init__()
        self.model = CSSFEForImageClassification(config)
        self.model.cssfe.backbone.requires_grad_(False)
        self.model.cssfe.feature_projection = nn.Identity()  # the maps are wider than the small backbone's
        FeatureFeed(self.model)
        if label_embeddings is not None and config.uses_fusion:
            self.model.cssfe.set_label_embeddings(label_embeddings)
        self.stage = stage

    def train(self, mode: bool = True):
        super().train(mode)
        if self.stage is not None:
            self.stage.eval()  # the statistics of BatchNorm stay as they were loaded
        return self

    def forward(self, features: torch.Tensor, labels: torch.Tensor | None = None) -> CSSFEImageClassifierOutput:
        if self.stage is not None:
            features = run_stage(self.stage, features)
        return self.model(features if torch.is_autocast_enabled("cpu") else features.float(), labels=labels)


def run_stage(stage: nn.Module, features: torch.Tensor) -> torch.Tensor:
    """The backbone's maps from those that its last stage is given, in the precision of cached ones."""
    bf16 = computes_in_bf16("cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = features if bf16 else features.float()
        return stage(features.contiguous(memory_format=torch.channels_last))
