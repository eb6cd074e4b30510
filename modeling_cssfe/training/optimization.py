# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Optimizers with separate learning rates for backbone and head, and learning-rate schedules."""

import torch
from torch import nn
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from ..recipes import Recipe


_ROUNDING = 1e-6


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Split trainable parameters by learning rate (backbone, head) and weight decay (matrices; biases and norms).

    Args:
        model: A CSSFE model.
        recipe: Learning rates and weight decay.

    Returns:
        Up to four groups, each named `backbone` or `head`.
    """
    groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = "backbone" if ".backbone." in f".{name}" else "head"
            groups.setdefault((part, parameter.ndim > 1), []).append(parameter)
    rates = {"head": recipe.learning_rate, "backbone": recipe.backbone_learning_rate or recipe.learning_rate}
    return [
        {
            "params": parameters,
            "lr": rates[part],
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "name": part,
        }
        for (part, decays), parameters in groups.items()
    ]


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over `parameter_groups`."""
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
    # Fused kernels update all parameters in a few launches; they exist for CPU and CUDA alike.
    return kind(groups, lr=recipe.learning_rate, fused=next(model.parameters()).device.type in ("cpu", "cuda"))


def build_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, num_updates: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The recipe's schedule over `num_updates` optimizer updates, stepped after each.

    Args:
        optimizer: From `build_optimizer`; each group's `lr` is its peak.
        recipe: `schedule` and `warmup_fraction`.
        num_updates: Updates of the whole run, >= 1.
    """
    warmup = round(recipe.warmup_fraction * num_updates)
    if recipe.schedule == "one_cycle":
        total, fraction = max(num_updates, 2), recipe.warmup_fraction
        if abs(fraction * total - 1) < _ROUNDING:
            fraction = (1 + _ROUNDING) / total  # torch divides by 0 where the warm-up is one update long
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total,
            pct_start=fraction,
        )
    if recipe.schedule == "cosine":
        return get_cosine_schedule_with_warmup(optimizer, warmup, num_updates)
    return get_constant_schedule_with_warmup(optimizer, warmup)


__all__ = ["build_optimizer", "build_schedule", "parameter_groups"]
