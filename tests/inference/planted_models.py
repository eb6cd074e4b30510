# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Models and processors whose results are known beforehand and take no time."""

import torch
from torch import nn

from modeling_cssfe import CSSFEConfig, CSSFEImageProcessor
from modeling_cssfe.modeling_cssfe import CSSFEImageClassifierOutput


class PlantedModel(nn.Module):
    """Stands for a model: logits and maps are those it was given, the same for every image."""

    def __init__(self, config: CSSFEConfig, logits: torch.Tensor, maps: torch.Tensor):
        super().__init__()
        self.config = config
        self.logits = nn.Buffer(logits)
        self.maps = nn.Buffer(maps)

    def forward(self, pixel_values):
        count = len(pixel_values)
        maps = self.maps.expand(count, *self.maps.shape)
        return CSSFEImageClassifierOutput(
            logits=self.logits.expand(count, -1), class_activation_maps=-maps, enhanced_activation_maps=maps
        )


class ZeroProcessor(CSSFEImageProcessor):
    """Takes no time: every image is black."""

    def __call__(self, images, return_tensors="pt", **options):
        return {"pixel_values": torch.zeros(len(images), 3, 2, 2)}
