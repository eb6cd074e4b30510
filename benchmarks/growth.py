"""One training step of CSSFE's head on synthetic features, for any number of classes."""

import time

import torch
from model_cost import class_counts, peak_resident_bytes
from torch import nn

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification


class SyntheticFeatures(nn.Module):
    """Stands in for the backbone: (B, 3, ...) images to fixed (B, 2048, 14, 14) features."""

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(pixel_values), 2048, 14, 14)


def head_step(num_classes: int) -> dict[str, float]:
    config = CSSFEConfig(
        backbone="test_resnet", feature_size=2048, image_size=448, class_counts=class_counts(num_classes)
    )
    model = CSSFEForImageClassification(config).train()
    model.cssfe.backbone, model.cssfe.feature_projection = SyntheticFeatures(), nn.Identity()
    before = peak_resident_bytes()
    labels = (torch.rand(1, num_classes) < 0.01).float()
    start = time.perf_counter()
    model(torch.zeros(1, 3, 448, 448), labels=labels).loss.backward()
    seconds = time.perf_counter() - start
    peak = peak_resident_bytes()
    return {"seconds": round(seconds, 3), "peak_bytes": peak, "bytes_over_start": peak - before}
