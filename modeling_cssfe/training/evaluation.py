# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Scores of a model on a data set, gathered exactly, and their metric."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ..image_processing_cssfe import CSSFEImageProcessor
from ..modeling_cssfe import CSSFEForImageClassification
from .interruption import StopWantedError


if TYPE_CHECKING:
    import datasets


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


def load_trained_model(path: str | os.PathLike) -> tuple[CSSFEForImageClassification, CSSFEImageProcessor]:
    """A trained model and its image processor from a folder or a Hub repository.

    Raises:
        ValueError: There is no CSSFE model; one line says what was looked for.
    """
    return _load(path, CSSFEForImageClassification)


def load_image_classifier(path: str | os.PathLike) -> tuple[Any, Any]:
    """Any model of `AutoModelForImageClassification`, CSSFE or not, in fp32, and its image processor.

    Args:
        path: Folder or Hub repository. Code that lies in the repository is not run.

    Raises:
        ValueError: There is no such model; one line says what was looked for.
    """
    # transformers loads in the dtype that was saved; images come as fp32.
    return _load(path, AutoModelForImageClassification, dtype=torch.float32)


def _load(path: str | os.PathLike, model_class: Any, **options: Any) -> tuple[Any, Any]:
    name = os.fspath(path)
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise ValueError(f"{name!r} holds no model (no config.json); give a folder that `cssfe train` wrote.")
    if not os.path.isdir(name) and (os.path.isabs(name) or name.startswith(".") or name.count("/") != 1):
        raise ValueError(f"there is no folder {name!r}; give a folder that `cssfe train` wrote or a Hub repository.")
    try:
        model = model_class.from_pretrained(name, **options)
        processor = AutoImageProcessor.from_pretrained(name)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot load a model from {name!r}: {reason}") from error
    except ValueError as error:  # transformers lists every architecture it knows
        reason = str(error).strip().splitlines()[0][:300]
        raise ValueError(f"{name!r} is no image classification model that can be loaded: {reason}") from error
    return model.eval(), processor


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
            f"the data's classes are not the model's: it lacks {_some(missing)} and has {_some(unknown)} besides; "
            "evaluate on data with the model's label names."
        )
    return labels[:, [list(names).index(name) for name in wanted]]


def _some(names: Sequence[str]) -> str:
    """A foreign model may have thousands of classes."""
    if len(names) > 5:
        return f"{len(names)} classes ({', '.join(map(repr, names[:5]))}, ...)"
    return str(names) if names else "none"


def evaluate_model(
    path: str | os.PathLike,
    data: "str | os.PathLike | datasets.Dataset",
    split: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    mixed_precision: str = "no",
) -> dict[str, Any]:
    """Evaluate a trained model on a data set; `modeling_cssfe.evaluation.scoring.score_model` gives its scores.

    Args:
        path: Folder or Hub repository of the model.
        data: What `load_images` accepts, or a loaded data set.
        split: Split to judge; by default `test` if there is one, then `validation`, then the only one.
        batch_size: Images a step.
        num_workers: Loader processes.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.

    Returns:
        The result of `long_tail_map`, with `split`, `num_images` and `model` added.

    Raises:
        ValueError: No such split, classes that are not the model's, or no training counts.
    """
    from ..evaluation.scoring import score_model  # which needs this module
    from ..evaluation.splits import load_split

    judged = load_split(data, split)
    table = score_model(path, judged, batch_size=batch_size, num_workers=num_workers, mixed_precision=mixed_precision)
    return {"model": table.name, "split": judged.name, **table.figures()}


__all__ = [
    "align_labels",
    "compute_logits",
    "compute_scores",
    "evaluate_model",
    "load_image_classifier",
    "load_trained_model",
]
