"""Feature maps of photographs from a frozen backbone, cached, so that a head of any ablation trains in about a minute.

A view is one way of looking at every training image: `plain`, `flip`, or a random resized crop (`crop0`, `crop1`, ...),
flipped at random. Views stand in for augmentation: an epoch takes one view of each image. Validation has `plain` and
`flip`, for test-time augmentation. One safetensors file a split and view, bfloat16.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms import v2
from tqdm.auto import tqdm

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.backbone_cssfe import CSSFEBackbone, load_backbone_weights
from modeling_cssfe.data import EvaluationTransform, build_data_loader, build_train_transform, load_images
from modeling_cssfe.training.environment import computes_in_bf16


def build_frozen_backbone(name: str, weights: str, image_size: int, stride_in_first_convolution: bool) -> nn.Module:
    """A backbone in evaluation mode.

    `stride_in_first_convolution` is the 2015 layout of ResNet-50, in which Keras's weights were trained.
    """
    config = CSSFEConfig(backbone=name, image_size=image_size, ablation="net0")
    backbone = CSSFEBackbone(config)
    load_backbone_weights(backbone, weights)
    if stride_in_first_convolution:
        for stage in ("layer2", "layer3", "layer4"):
            block = getattr(backbone.timm_model, stage)[0]
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    return backbone.eval().to(memory_format=torch.channels_last)


def _transform(view: str, image_size: int):
    processor = CSSFEImageProcessor.from_model_config(CSSFEConfig(image_size=image_size, ablation="net0"))
    if view.startswith("crop"):
        return build_train_transform(
            image_size, processor.image_mean, processor.image_std, augmentation="none", crop_scale=(0.4, 1.0)
        )
    plain = EvaluationTransform(processor)
    return plain if view == "plain" else v2.Compose([v2.RandomHorizontalFlip(1.0), plain])


@torch.no_grad()
def extract(arguments, split: str, view: str) -> dict[str, torch.Tensor]:
    """`{"features": (N, D, H, W) bfloat16, "labels": (N, C)}` of one split and view, from the cache if it is there."""
    file = Path(arguments.cache) / f"{split}_{view}_{arguments.image_size}.safetensors"
    if file.is_file():
        return load_file(file)
    backbone = build_frozen_backbone(
        arguments.backbone,
        arguments.backbone_weights,
        arguments.image_size,
        arguments.stride_in_first_convolution,
    )
    number = int(view[4:]) if view.startswith("crop") else 0
    loader = build_data_loader(
        load_images(arguments.data)[split], _transform(view, arguments.image_size), batch_size=16, seed=number
    )
    features, labels = [], []
    for batch in tqdm(loader, desc=f"{split} {view}"):
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_in_bf16("cpu")):
            maps = backbone(batch["pixel_values"].contiguous(memory_format=torch.channels_last))
        features.append(maps.to(torch.bfloat16).contiguous())
        labels.append(batch["labels"])
    tensors = {"features": torch.cat(features), "labels": torch.cat(labels)}
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(file)
    return tensors


class CachedFeatures(nn.Module):
    """Stands in for the backbone: returns the maps that were put into it, whatever the pixels."""

    def __init__(self):
        super().__init__()
        self.batch: torch.Tensor | None = None

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.batch


class Head(nn.Module):
    """A CSSFE model without its backbone: `(B, D, H, W)` features to logits."""

    def __init__(self, config: CSSFEConfig, label_embeddings: torch.Tensor | None = None):
        super().__init__()
        self.model = CSSFEForImageClassification(config)
        self.model.cssfe.backbone = CachedFeatures()
        self.model.cssfe.feature_projection = nn.Identity()
        if label_embeddings is not None and config.uses_fusion:
            self.model.cssfe.set_label_embeddings(label_embeddings)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        self.model.cssfe.backbone.batch = features
        return self.model(features.new_zeros(len(features), 3, 1, 1)).logits
