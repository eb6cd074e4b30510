# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The classifier that a backbone was pretrained with, which the model itself does not keep."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open

from ..backbone_cssfe import find_pretrained_file
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe


@dataclass(frozen=True)
class PretrainedClassifier:
    """A linear classifier of the mean of a backbone's maps.

    Where timm has another layer between that mean and the classifier (the norm of a ConvNeXt, the last layers of a
    VGG), its probabilities are only roughly those that the backbone was trained for.

    Attributes:
        weight: `(K, D)`, a row for each of the K classes that the backbone was pretrained on.
        bias: `(K,)`.
    """

    weight: torch.Tensor
    bias: torch.Tensor

    def to(self, **options: Any) -> "PretrainedClassifier":
        """Return the same on another device or in another dtype."""
        return PretrainedClassifier(self.weight.to(**options), self.bias.to(**options))

    def probabilities(self, features: torch.Tensor) -> torch.Tensor:
        """`(B, K)` probabilities of the pretrained classes from `(B, D)` mean features."""
        return (features @ self.weight.T + self.bias).softmax(dim=1)


def load_pretrained_classifier(
    model: CSSFEForImageClassification, backbone_weights: bool | str | os.PathLike
) -> PretrainedClassifier:
    """Read the classifier from the file that holds the backbone's weights.

    Args:
        model: Its class activation layer must take the backbone's own features.
        backbone_weights: As `CSSFEForImageClassification.from_backbone` takes them.

    Raises:
        ValueError: The weights are random, the file holds no classifier, or it is one of other features.
    """
    name = model.config.backbone
    mend = "set class_activation_init to discriminant."
    if backbone_weights is False:
        raise ValueError(f"backbone_weights is false, and random weights have no pretrained classifier; {mend}")
    if not isinstance(model.cssfe.feature_projection, torch.nn.Identity):
        raise ValueError(
            f"feature_size {model.config.feature_size} puts a new layer behind {name!r}, whose features the pretrained "
            f"classifier does not know; {mend}"
        )
    path = find_pretrained_file(name) if backbone_weights is True else os.fspath(backbone_weights)
    heads = getattr(model.cssfe.backbone.timm_model, "pretrained_cfg", {}).get("classifier") or ()
    head = heads if isinstance(heads, str) else next(iter(heads), None)  # distilled models have two
    with safe_open(path, "pt") as opened:
        if head is None or f"{head}.weight" not in opened.keys():  # noqa: SIM118 (not a dictionary)
            wanted = "a classifier" if head is None else f"{head}.weight, the classifier of {name!r}"
            raise ValueError(f"the backbone weights {path!r} do not hold {wanted}; {mend}")
        weight = opened.get_tensor(f"{head}.weight").flatten(1).float()
        has_bias = f"{head}.bias" in opened.keys()  # noqa: SIM118
        bias = opened.get_tensor(f"{head}.bias").float() if has_bias else weight.new_zeros(len(weight))
    width = model.cssfe.class_activation.weight.shape[1]
    if weight.shape[1] != width:
        raise ValueError(
            f"the classifier in {path!r} takes {weight.shape[1]} features, the maps of {name!r} have {width}; {mend}"
        )
    return PretrainedClassifier(weight, bias)


def recipe_classifier(recipe: Recipe, model: CSSFEForImageClassification) -> PretrainedClassifier | None:
    """The pretrained classifier, if the recipe wants to hear it.

    Raises:
        ValueError: There is none that fits.
    """
    if recipe.class_activation_init != "discriminant_and_classifier":
        return None
    return load_pretrained_classifier(model, recipe.backbone_weights)


__all__ = ["PretrainedClassifier", "load_pretrained_classifier", "recipe_classifier"]
