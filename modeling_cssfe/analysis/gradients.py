# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Gradients on the logits at fixed weights, over data, and from what a run has logged.

What such a gradient is, and how a run records its own, is in `modeling_cssfe.training.gradient_observer`.
"""

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..evaluation.bootstrap import DEFAULT_RESAMPLES
from ..training.gradient_observer import LossLogits, logit_gradients
from ..training.loop import smooth_labels
from .streamed_means import StreamedMeans, Summary


def measure_gradients(
    model: Any,
    loader: Iterable[Mapping[str, torch.Tensor]],
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    groups: Sequence[str] | None = None,
    *,
    label_smoothing: float = 0.0,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Summary]:
    """Gradients of a loss on a model's logits over data, at fixed weights, with intervals over images.

    Args:
        model: A CSSFE model, on its device.
        loader: Yields `pixel_values` and `labels`, in the model's order of classes.
        loss: By default the model's own.
        groups: Group of each class, by default the model's own.
        label_smoothing: What the model was trained with, in [0, 1).
        resamples: Of the intervals.
        seed: Of the resamples.
        confidence: Share of resamples within an interval.

    Returns:
        The figures of `GradientMeter.compute`; a group's `push_down` is of the mean sizes of its classes.
    """
    loss = model.loss_function if loss is None else loss
    device = next(model.parameters()).device
    names = list(model.config.label_names)
    means = StreamedMeans(names, groups or model.config.groups, resamples, seed, confidence)
    model.eval()
    with contextlib.closing(LossLogits(model)) as loss_logits:
        for batch in loader:
            labels = batch["labels"].to(device)
            with torch.no_grad():
                logits = loss_logits.last(model(pixel_values=batch["pixel_values"].to(device)).logits)
            found = logit_gradients(logits, smooth_labels(labels, label_smoothing), loss).cpu().double().numpy()
            positive, negative = ((labels > 0).cpu().numpy(), (labels == 0).cpu().numpy())
            known = positive | negative
            parts = {"positives": positive, "negatives": negative, "net": known}
            values = {name: np.where(where, found, np.nan) for name, where in parts.items()}
            values["up"] = np.where(known, np.clip(-found, 0, None), np.nan)
            values["size"] = np.where(known, np.abs(found), np.nan)
            means.add(values)
    every = np.ones(len(names), dtype=bool)
    return {
        **{name: means.summarize(name) for name in ("positives", "negatives", "net")},
        "push_down": means.summarize_loss("up", "size", every),
    }


def gradients_from_probabilities(probabilities: dict[str, dict[str, float | None]]) -> dict[str, Any]:
    """Gradients of binary cross-entropy by group, from mean probabilities of positives and negatives.

    sigma(s) - y is linear in the probability, so its mean is that of the probabilities, less 1 for positives.

    Args:
        probabilities: Group -> `positive`, `negative`, as `log.jsonl` has them.

    Returns:
        Group -> `positives` and `negatives`, as in `GradientMeter.compute`.
    """
    return {
        group: {
            "positives": None if own.get("positive") is None else float(own["positive"]) - 1,  # type: ignore[arg-type]
            "negatives": own.get("negative"),
        }
        for group, own in probabilities.items()
    }


__all__ = ["gradients_from_probabilities", "measure_gradients"]
