# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Which way the loss pushes the logits of each class, and how hard.

For binary cross-entropy the gradient of a logit is sigma(s) - y: every image without the class pushes its logit down
(a positive gradient), every image with it up. Classes with few positives are mostly pushed down, which is how the CSSFE
paper explains their low confidence. For any other loss autograd gives the gradient on the logits.

Gradients are those of the loss summed over images and classes, whatever its `reduction`, so that BCE gives
sigma(s) - y itself. Where a discriminant has a share of the final logits, s is the logit that the loss is given,
without that share.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from ..configuration_cssfe import GROUPS
from .loop import smooth_labels
from .run import Observer, Run


# Rows of the sums: gradients on positives, their number, the same for negatives, sizes of the gradients that push up.
_POSITIVE, _NUM_POSITIVE, _NEGATIVE, _NUM_NEGATIVE, _UP, _DOWN = range(6)
FIGURES = ("positives", "negatives", "net", "push_down")


def logit_gradients(
    logits: torch.Tensor, labels: torch.Tensor, loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Gradient of the summed loss on the logits.

    Args:
        logits: `(B, C)`.
        labels: `(B, C)`, 1, 0, or -1 (or NaN) for unknown.
        loss: `(logits, labels) -> scalar`; one with an attribute `reduction` is summed.

    Returns:
        `(B, C)`, the dtype of the logits; 0 at unknown labels. Nothing is left in `.grad` of any parameter.
    """
    if getattr(loss, "reduction", "sum") != "sum":
        loss = copy.copy(loss)  # shares its statistics with the other, which stays as it is
        loss.reduction = "sum"  # type: ignore[attr-defined]
    with torch.enable_grad():
        leaf = logits.detach().clone().requires_grad_(True)
        return torch.autograd.grad(loss(leaf, labels), leaf)[0]


class LossLogits:
    """The logits that a model's loss is given: without the share of a discriminant, where there is one."""

    def __init__(self, model: Any):
        self._hook = None
        if model.discriminant is not None:
            self._hook = model.classifier.register_forward_hook(self._keep)

    def _keep(self, classifier: Any, inputs: Any, logits: torch.Tensor) -> None:
        self._kept = logits.detach()

    def last(self, final: torch.Tensor) -> torch.Tensor:
        """Those of the last forward pass, whose final logits are given, in fp32."""
        return (final if self._hook is None else self._kept).float()

    def close(self) -> None:
        """Listen no longer."""
        if self._hook is not None:
            self._hook.remove()


class GradientMeter:
    """Sums gradients of logits by class, on their device and without waiting for it.

    Args:
        label_names: Class names, length C.
        groups: Group of each class, length C.
        device: Where the logits are.
    """

    def __init__(self, label_names: Sequence[str], groups: Sequence[str], device: torch.device | str = "cpu"):
        self.label_names, self.groups = list(label_names), list(groups)
        # Apple's GPUs have no float64.
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        self._sums = torch.zeros(6, len(self.groups), dtype=dtype, device=device)

    def reset(self) -> None:
        """Forget everything, at the start of an epoch."""
        self._sums.zero_()

    @torch.no_grad()
    def update(self, gradients: torch.Tensor, labels: torch.Tensor) -> None:
        """Add a batch of `(B, C)` gradients (from `logit_gradients`) and labels."""
        gradients = gradients.detach().to(self._sums.dtype)
        positive, negative = (labels > 0).to(gradients.device), (labels == 0).to(gradients.device)
        zero = torch.zeros((), dtype=gradients.dtype, device=gradients.device)
        self._sums += torch.stack(
            [
                torch.where(positive, gradients, zero).sum(0),
                positive.sum(0).to(gradients.dtype),
                torch.where(negative, gradients, zero).sum(0),
                negative.sum(0).to(gradients.dtype),
                (-gradients).clamp(min=0).sum(0),
                gradients.clamp(min=0).sum(0),
            ]
        )

    def reduce(self, accelerator: Any) -> None:
        """Sum over all processes."""
        if accelerator.num_processes > 1:
            self._sums = accelerator.reduce(self._sums, reduction="sum")

    def compute(self) -> dict[str, Any]:
        """The figures of each class and group.

        Returns:
            `per_class` and `groups`, name -> `positives`: mean gradient on images with the class (negative: it pushes
            the logit up); `negatives`: on images without it; `net`: over all images; `push_down`: share of the summed
            size of the gradients that pushes the logit down, in [0, 1]. A group's are means over its classes; None
            where there is nothing to average.
        """
        sums = self._sums.cpu().numpy().astype(np.float64)
        known = sums[_NUM_POSITIVE] + sums[_NUM_NEGATIVE]
        figures = {
            "positives": _divide(sums[_POSITIVE], sums[_NUM_POSITIVE]),
            "negatives": _divide(sums[_NEGATIVE], sums[_NUM_NEGATIVE]),
            "net": _divide(sums[_POSITIVE] + sums[_NEGATIVE], known),
            "push_down": _divide(sums[_DOWN], sums[_UP] + sums[_DOWN]),
        }
        per_class = {
            name: {figure: _plain(values[index]) for figure, values in figures.items()}
            for index, name in enumerate(self.label_names)
        }
        plain = {figure: [_plain(value) for value in values] for figure, values in figures.items()}
        return {"per_class": per_class, "groups": group_means(plain, self.groups)}

    def state_dict(self) -> dict[str, Any]:
        """The sums of this process, as plain values for JSON, which keeps every bit of a float64."""
        return {"sums": self._sums.tolist()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._sums.copy_(torch.tensor(state["sums"], dtype=self._sums.dtype))


def group_means(
    figures: Mapping[str, Sequence[float | None]], groups: Sequence[str]
) -> dict[str, dict[str, float | None]]:
    """Means over the classes of each group.

    Args:
        figures: Figure -> value of each class, None where it has none.
        groups: Group of each class.

    Returns:
        Group -> figure -> mean over its classes that have a value; groups without classes are left out.
    """
    found = {}
    for group in GROUPS:
        members = [index for index, own in enumerate(groups) if own == group]
        if members:
            found[group] = {name: _mean([values[index] for index in members]) for name, values in figures.items()}
    return found


class GradientObserver(Observer):
    """Records the gradients on the logits while a run trains, for any loss.

    `log.jsonl` gets them under `gradients`, by the run's groups, and under `class_gradients`, a list in the order of
    the model's classes, from which two runs can be averaged over the same groups. A recipe asks for it
    by `record_gradients: true`.

    The gradients are computed from the logits and labels of each step, apart from training's own backward pass, so
    neither mixed precision nor gradient accumulation scales them. It costs a second evaluation of the loss, without the
    network.

    Args:
        run: A prepared run.
    """

    name = "gradients"

    def __init__(self, run: Run):
        config: Any = run.model.config
        self._accelerator = run.accelerator
        self._meter = GradientMeter(config.label_names, config.groups, run.accelerator.device)
        self._logits = LossLogits(run.model)

    def on_epoch_start(self, run: Run) -> None:
        """Begin an epoch, or go on with one of which `run.step` batches are done."""
        if run.step == 0:
            self._meter.reset()

    def on_step_end(self, run: Run, batch: dict[str, torch.Tensor], loss: torch.Tensor, logits: torch.Tensor) -> None:
        """Add a step's gradients, on the device."""
        labels = batch["labels"]
        wanted = smooth_labels(labels, run.recipe.label_smoothing)
        self._meter.update(logit_gradients(self._logits.last(logits), wanted, run.model.loss_function), labels)

    def on_steps_done(self, run: Run, entry: dict[str, Any]) -> None:
        """Add the epoch's figures by group to its entry."""
        self._meter.reduce(run.accelerator)
        found = self._meter.compute()
        entry["gradients"] = found["groups"]
        classes = list(found["per_class"].values())
        entry["class_gradients"] = {name: [own[name] for own in classes] for name in FIGURES}

    def close(self) -> None:
        """Leave the model."""
        self._logits.close()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs. All processes call it; it has the sums of each."""
        return {"processes": gather_object([self._meter.state_dict()])}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._meter.load_state_dict(state["processes"][self._accelerator.process_index])


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


__all__ = ["FIGURES", "GradientMeter", "GradientObserver", "LossLogits", "group_means", "logit_gradients"]
