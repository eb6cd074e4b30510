# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a model is put together from: its loss, its label embeddings, the statistics of its pretrained backbone."""

import importlib
import importlib.util

import torch
from torch import nn

from .configuration_cssfe import CSSFEConfig
from .loss_cssfe import AsymmetricLoss, BinaryCrossEntropyLoss


def name_unknown(kind: str, name: str, known: list[str]) -> str:
    """Say what a name is not, and what may have been meant."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"unknown {kind} {name!r}" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}.")


def as_numbers(name: str, values) -> torch.Tensor:
    """A tensor of an array, a nested list or a tensor of finite real numbers.

    Raises:
        ValueError: It is no such thing.
    """
    try:
        tensor = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        kind = getattr(values, "dtype", type(values).__name__)
        raise ValueError(f"{name} must be an array of numbers, got {kind}.") from error
    if tensor.is_complex() or not torch.isfinite(tensor).all():
        raise ValueError(f"values of {name} are NaN, infinite or complex; compute them again.")
    return tensor


def _package_module(name: str, purpose: str):
    """A module of the installed package, which a copy of this file next to saved weights may have to do without."""
    found = importlib.util.find_spec("modeling_cssfe")
    # A script that lies beside saved weights finds their modeling_cssfe.py, which is no package; nor is a folder that
    # is only called so.
    if found is None or found.submodule_search_locations is None or found.origin is None:
        raise ValueError(f"{purpose} needs the whole package; run `pip install cssfe`.")
    return importlib.import_module(f"modeling_cssfe.{name}")


def build_loss_of(config: CSSFEConfig) -> nn.Module:
    """Build the loss that a configuration names, with its options and the statistics that it needs.

    Raises:
        ValueError: Unknown, without a statistic that it needs, with options that it does not have, or outside of the
            package although it does not travel with the model.
    """
    options = config.loss_kwargs or {}
    travelling = {"asl": AsymmetricLoss, "bce": BinaryCrossEntropyLoss}
    if config.loss in travelling:
        try:
            return travelling[config.loss](**options)
        except TypeError as error:
            raise ValueError(f"loss_kwargs {options} do not fit the loss {config.loss!r}: {error}.") from error
    losses = _package_module("losses", f"the loss {config.loss!r} (only asl and bce travel with a saved model)")
    statistics = {"class_counts": config.class_counts, "num_samples": config.num_samples}
    entry = losses.get_loss_entry(config.loss)
    # A loss that treats groups differently means those of the model, unless its own options say otherwise.
    groups = {name: getattr(config, name) for name in ("head_min", "tail_max") if name in entry.defaults}
    for statistic in entry.needs:
        if statistics[statistic] is None and statistic not in options:
            raise ValueError(
                f"the loss {config.loss!r} needs {statistic} of the training images: give it to CSSFEConfig or "
                "from_backbone."
            )
    return losses.build_loss(config.loss, **(statistics | groups | options))


def resolve_label_embeddings(source, config: CSSFEConfig, seed: int) -> tuple[torch.Tensor, dict]:
    """Return the label embeddings that `source` stands for, (C, T), and where they came from; see `from_backbone`.

    Raises:
        ValueError: An array of another shape, an unknown source, or one that only the package can read.
    """
    if hasattr(source, "__array__"):
        source = as_numbers("label embeddings", source)
        if source.ndim != 2 or source.shape[0] != config.num_labels:
            raise ValueError(
                f"label embeddings have the shape {tuple(source.shape)}, expected ({config.num_labels}, T): one row "
                "for each class."
            )
        return source.detach().float(), {"source": "tensor"}
    module = _package_module("label_embeddings", "embedding label names")
    dim = config.label_embedding_dim if source == "random" else None
    return module.resolve_label_embeddings(source, config.label_names, seed=seed, dim=dim)


def pretrained_statistics(backbone: str, settings: dict) -> dict:
    """Mean and standard deviation that timm's weights of this architecture were trained with."""
    import timm

    try:
        pretrained = timm.get_pretrained_cfg(backbone)
    except RuntimeError:  # a tag that does not exist, of which the model itself will speak
        return {}
    if (
        pretrained is None
        or "image_mean" in settings
        or "image_std" in settings
        or settings.get("num_channels", 3) != 3
    ):
        return {}
    return {"image_mean": list(pretrained.mean), "image_std": list(pretrained.std)}


__all__ = ["as_numbers", "build_loss_of", "name_unknown", "pretrained_statistics", "resolve_label_embeddings"]
