# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Models that attend to a known place: where an image is red (class 0) or blue (class 1)."""

import torch
from torch import nn
from torch.nn import functional as F

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor


NAMES = ["red", "blue"]


class Colours(nn.Module):
    """Stands in for the backbone: how red and how blue each of 8 x 8 px is, times a gain for each."""

    def __init__(self, gains=(1.0, 1.0)):
        super().__init__()
        self.register_buffer("gains", torch.tensor(gains))

    def forward(self, pixel_values):
        rgb = F.avg_pool2d(pixel_values, 8)
        maps = torch.zeros(len(rgb), 96, *rgb.shape[2:])
        maps[:, 0] = self.gains[0] * (rgb[:, 0] - rgb[:, 2]).clamp(min=0)
        maps[:, 1] = self.gains[1] * (rgb[:, 2] - rgb[:, 0]).clamp(min=0)
        return maps


def planted_model(gains=(1.0, 1.0), counts=(200, 5), bias=(0.0, 0.0)):
    """A net0 whose maps are the gains times red and blue, and its processor (64 px, pixel values in [0, 1])."""
    config = CSSFEConfig(
        backbone="test_resnet", image_size=64, label_names=NAMES, class_counts=list(counts), ablation="net0"
    )
    model = CSSFEForImageClassification(config).eval()
    model.cssfe.backbone = Colours(gains)
    with torch.no_grad():
        weight, offset = model.cssfe.class_activation.weight, model.cssfe.class_activation.bias
        weight.zero_()
        weight[0, 0] = weight[1, 1] = 1.0
        offset.copy_(torch.tensor(bias))
    processor = CSSFEImageProcessor(size={"height": 64, "width": 64}, do_normalize=False)
    return model, processor


def random_batch(generator, images=6, side=64):
    """Smooth random pictures and labels, each class on most of them."""
    pixels = torch.rand(images, 3, side, side, generator=generator)
    labels = (torch.rand(images, 2, generator=generator) < 0.7).float()
    return {"pixel_values": pixels, "labels": labels}
