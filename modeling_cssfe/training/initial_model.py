# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Starting from a trained model: the same network, trained on with other images or settings, or with its backbone."""

import dataclasses
import json
import os
from typing import Any

import torch

from ..common.model_loading import load_trained_model
from ..configuration_cssfe import CSSFEConfig
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe


# What two models of the same weights may have otherwise: how they are trained, and what is said about them.
_MAY_DIFFER = {
    "image_size", "class_counts", "num_samples", "head_min", "tail_max", "preset", "loss", "loss_kwargs",
    "label_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob", "label_embedding_provenance",
    "thresholds", "calibration",
}  # fmt: skip


def build_from_initial_model(
    path: str | os.PathLike, backbone: str, label_names: list[str], **settings: Any
) -> CSSFEForImageClassification:
    """Build a model of a recipe's settings with the weights and label embeddings of a trained one.

    Args:
        path: Folder or Hub repository of the trained model.
        backbone: timm architecture.
        label_names: Classes of the data.
        **settings: Further arguments of `from_backbone`, weights and label embeddings apart.

    Returns:
        The model, in evaluation mode.

    Raises:
        ValueError: There is no whole CSSFE model, it has other classes, or its network is not that of the settings.
    """
    trained, _ = load_trained_model(path)
    name, config = os.fspath(path), trained.config
    if config.label_names != label_names:
        difference = _first_difference(config.label_names, label_names)
        raise ValueError(
            f"initial_model {name!r} has other classes than the data: {difference}; give a model of these classes in "
            "this order, or leave initial_model out."
        )
    model = CSSFEForImageClassification.from_backbone(
        backbone,
        label_names=label_names,
        backbone_weights=False,
        label_embeddings=trained.cssfe.label_embeddings if config.uses_fusion else "random",
        **settings | {"num_pretrained_labels": config.num_pretrained_labels},
    )
    differing = [
        f"{field} {getattr(config, field)!r}, not {getattr(model.config, field)!r}"
        for field in _fields_of_the_network()
        if _plain(getattr(config, field)) != _plain(getattr(model.config, field))
    ]
    if differing:
        raise ValueError(
            f"initial_model {name!r} is another network than the recipe's: it has {'; '.join(differing)}; give the "
            "recipe the settings that it was trained with."
        )
    if (different := _different_shape(trained, model)) is not None:
        raise ValueError(
            f"initial_model {name!r} has {different} in the recipe's model; give the recipe the image_size that it was "
            "trained with."
        )
    model.load_state_dict(trained.state_dict())
    model.config.label_embedding_provenance = config.label_embedding_provenance
    return model.eval()


def require_same_shapes(recipe: Recipe, first: Recipe) -> None:
    """Check that both phases of a run can have the same weights, before the first one takes its time.

    Raises:
        ValueError: Some depend on the image's size, which is another one in the first phase.
    """
    if recipe.image_size == first.image_size:
        return
    with torch.device("meta"):
        models = [
            CSSFEForImageClassification(
                CSSFEConfig(
                    backbone=one.backbone,
                    backbone_kwargs=one.backbone_kwargs or None,
                    image_size=one.image_size,
                    preset=one.preset,
                    ablation=one.ablation,
                    **one.model,
                )
            )
            for one in (first, recipe)
        ]
    if (different := _different_shape(*models)) is not None:
        raise ValueError(
            f"with first_phase.image_size {first.image_size} the model has {different} with image_size "
            f"{recipe.image_size}; give both phases one size."
        )


def _different_shape(model: CSSFEForImageClassification, other: CSSFEForImageClassification) -> str | None:
    """The first weight whose shapes differ, of a gate on the maps or a table of positions; `None` if there is none."""
    shapes = {key: tuple(value.shape) for key, value in other.state_dict().items()}
    for key, value in model.state_dict().items():
        if shapes[key] != tuple(value.shape):
            return f"{key} of the shape {tuple(value.shape)}, but {shapes[key]}"
    return None


def _plain(value: Any) -> Any:
    """A configuration's value as its file has it: a saved tuple is a list."""
    return json.loads(json.dumps(value))


def _fields_of_the_network() -> list[str]:
    inherited = {field.name for base in CSSFEConfig.__mro__[1:] if dataclasses.is_dataclass(base)
                 for field in dataclasses.fields(base)}  # fmt: skip
    return [field.name for field in dataclasses.fields(CSSFEConfig) if field.name not in inherited | _MAY_DIFFER]


def _first_difference(found: list[str], wanted: list[str]) -> str:
    if len(found) != len(wanted):
        return f"{len(found)} of them, not {len(wanted)}"
    place = next(index for index, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
    return f"number {place} is {found[place]!r}, not {wanted[place]!r}"


__all__ = ["build_from_initial_model", "require_same_shapes"]
