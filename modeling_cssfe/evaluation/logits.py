# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Logits of a model on a data set, gathered exactly from all processes."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..common.names import name_some


class StopWantedError(Exception):
    """Ends an evaluation that a signal has made pointless."""


@torch.no_grad()
def compute_logits(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    description: str | None = "evaluating",
    stop: Callable[[], bool] | None = None,
) -> tuple[torch.Tensor, np.ndarray]:
    """Logits and labels of every image, in the data set's order, on every process.

    Args:
        model: Returns `logits`; it is put into evaluation mode.
        loader: Prepared by the accelerator; yields `pixel_values`, `labels` and `index`, the rows of the images.
        accelerator: Gathers what several processes computed and drops the padding of the last batch.
        description: Text of the progress bar; `None` for no bar.
        stop: Asked after each batch, on every process; true ends the evaluation.

    Returns:
        `(N, C)` fp32 logits on the CPU, and `(N, C)` labels (1, 0, or -1 for unknown).

    Raises:
        StopWantedError: `stop` was true.
    """
    model.eval()
    logits: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    rows: list[torch.Tensor] = []
    hidden = description is None or not accelerator.is_main_process
    for batch in tqdm(loader, desc=description, leave=False, disable=hidden):
        with accelerator.autocast():  # also for weights that were not prepared, such as a moving average's
            output = model(pixel_values=batch["pixel_values"])
        own = (output.logits.float(), batch["labels"], batch["index"])
        gathered = accelerator.gather_for_metrics(own)
        for parts, part in zip((logits, labels, rows), gathered, strict=True):
            parts.append(part.cpu())
        if stop is not None and stop():
            raise StopWantedError
    # Several processes get equally many images each, so some images twice; their rows tell, whatever was cut off.
    places = np.unique(torch.cat(rows).numpy(), return_index=True)[1]
    return torch.cat(logits)[places], torch.cat(labels)[places].numpy()


def compute_scores(
    model: nn.Module,
    loader: DataLoader,
    accelerator: Accelerator,
    description: str | None = "evaluating",
    stop: Callable[[], bool] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of every image; see `compute_logits`.

    Returns:
        `(N, C)` probabilities (the float64 sigmoid of fp32 logits) and `(N, C)` labels (1, 0, or -1 for unknown).
    """
    logits, labels = compute_logits(model, loader, accelerator, description, stop)
    return logits.double().sigmoid().numpy(), labels


def align_labels(labels: np.ndarray, names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    """Columns of `labels` in the order of `wanted`.

    Args:
        labels: `(N, C)` labels with columns named `names`.
        names: The data set's class names.
        wanted: The model's class names.

    Returns:
        `(N, C)` labels in the model's order.

    Raises:
        ValueError: The two do not name the same classes.
    """
    if set(names) != set(wanted):
        missing = sorted(set(wanted) - set(names))
        unknown = sorted(set(names) - set(wanted))
        raise ValueError(
            f"the data's classes are not the model's: it lacks {name_some(missing)} and has {name_some(unknown)} "
            "besides; evaluate on data with the model's label names."
        )
    return labels[:, [list(names).index(name) for name in wanted]]


__all__ = ["StopWantedError", "align_labels", "compute_logits", "compute_scores"]
