# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A share of the logits that is set in closed form (preset `plus`; how it is found: `training/discriminant.py`)."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

from .configuration_cssfe import CSSFEConfig
from .parts_cssfe import as_numbers


def linear_rows(weight, bias, expected: tuple[int | None, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Check the weight and the bias of a linear layer; any number of rows >= 1 will do where `None` is expected.

    Raises:
        ValueError: Another shape, or values that are not finite.
    """
    weight, bias = as_numbers("weight", weight), as_numbers("bias", bias)
    rows = expected[0] or max(1, weight.shape[0] if weight.ndim else 1)
    if tuple(weight.shape) != (rows, expected[1]) or tuple(bias.shape) != (rows,):
        raise ValueError(
            f"weight and bias have the shapes {tuple(weight.shape)} and {tuple(bias.shape)}, expected "
            f"{(rows, expected[1])} and {(rows,)}: a row for each class."
        )
    return weight, bias


class CSSFEDiscriminant(nn.Module):
    """A logit for each class in closed form, from linear classifiers that are set and not trained. Not in the paper.

    What they look at are descriptors of the image: the mean features, and, with `num_pretrained_labels`, what the
    classifier that the backbone was pretrained with says of the whole image and of its windows. Until they are set,
    logits are 0.
    """

    def __init__(self, config: CSSFEConfig, feature_size: int):
        super().__init__()
        self.feature_size = feature_size
        num_pretrained = config.num_pretrained_labels
        self.weight = nn.Buffer(torch.zeros(config.num_labels, feature_size + 2 * num_pretrained))
        self.bias = nn.Buffer(torch.zeros(config.num_labels))
        self.register_buffer("pretrained_weight", torch.zeros(num_pretrained, feature_size) if num_pretrained else None)
        self.register_buffer("pretrained_bias", torch.zeros(num_pretrained) if num_pretrained else None)

    def set_classifier(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Set what makes logits of the descriptors, in place; see `CSSFEForImageClassification.set_discriminant`."""
        weight, bias = linear_rows(weight, bias, tuple(self.weight.shape))
        with torch.no_grad():
            self.weight.copy_(weight)
            self.bias.copy_(bias)

    def set_pretrained_classifier(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        """Look at what a classifier of K labels says too; logits are 0 until `set_classifier` is called again."""
        weight, bias = linear_rows(weight, bias, (None, self.feature_size))
        num_labels, like = len(self.bias), self.bias
        self.weight = nn.Buffer(like.new_zeros(num_labels, self.feature_size + 2 * len(weight)))
        self.bias = nn.Buffer(torch.zeros_like(like))
        self.pretrained_weight = nn.Buffer(weight.detach().to(like, copy=True))
        self.pretrained_bias = nn.Buffer(bias.detach().to(like, copy=True))

    def descriptors(self, features: torch.Tensor) -> list[torch.Tensor]:
        """Describe `(B, D, H, W)` features.

        Returns:
            In fp32 or wider, as rounding makes ties: the mean features `(B, D)` and, with a pretrained classifier of K
            labels, the square roots of their probabilities for the whole image `(B, K)`, and those for the window in
            which each label is likeliest `(B, K)`. Of square roots, as in Hellinger's distance, unlikely labels tell
            something too.
        """
        features = features.to(torch.promote_types(features.dtype, torch.float32))
        means = features.mean(dim=(2, 3))
        if self.pretrained_weight is None:
            return [means]
        # Three by three positions around every other one, fewer at the edge, cover a map of any size.
        windows = F.avg_pool2d(features, 3, stride=2, padding=1, count_include_pad=False)
        # (B, D, h, w) -> (B, h * w, D)
        windows = windows.flatten(2).transpose(1, 2)
        return [means, self._root_probabilities(means), self._root_probabilities(windows).amax(dim=1)]

    def _root_probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """Square roots of the probabilities of the pretrained labels, `(..., D)` -> `(..., K)`."""
        weight, bias = self.pretrained_weight.to(features.dtype), self.pretrained_bias.to(features.dtype)
        with maybe_autocast(features.device.type, enabled=False):
            probabilities = F.linear(features, weight, bias).softmax(dim=-1)
        return probabilities.clamp(min=torch.finfo(features.dtype).tiny).sqrt()  # the slope at 0 is infinite

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Classify `(B, D, H, W)` features into `(B, C)` logits, in the precision of the descriptors."""
        descriptors = torch.cat(self.descriptors(features), dim=1)
        with maybe_autocast(features.device.type, enabled=False):
            return F.linear(descriptors, self.weight.to(descriptors.dtype), self.bias.to(descriptors.dtype))


__all__ = ["CSSFEDiscriminant", "linear_rows"]
