# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Scores of a model on a data set, gathered exactly, and their metric."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import AutoImageProcessor

from ..data import EvaluationTransform, build_data_loader, label_names_of, load_images
from ..image_processing_cssfe import CSSFEImageProcessor
from ..metrics import long_tail_map
from ..modeling_cssfe import CSSFEForImageClassification
from .environment import build_accelerator


if TYPE_CHECKING:
    import datasets


@torch.no_grad()
def compute_scores(
    model: nn.Module, loader: DataLoader, accelerator: Accelerator, description: str = "evaluating"
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels of every image, in the data set's order, on every process.

    Args:
        model: Returns `logits`; it is put into evaluation mode.
        loader: Prepared by the accelerator; yields `pixel_values` and `labels`.
        accelerator: Gathers what several processes computed and drops the padding of the last batch.
        description: Text of the progress bar.

    Returns:
        `(N, C)` probabilities (the float64 sigmoid of fp32 logits) and `(N, C)` labels (1, 0, or -1 for unknown).
    """
    model.eval()
    logits, labels = [], []
    for batch in tqdm(loader, desc=description, leave=False, disable=not accelerator.is_main_process):
        with accelerator.autocast():  # also for weights that were not prepared, such as a moving average's
            output = model(pixel_values=batch["pixel_values"])
        gathered = accelerator.gather_for_metrics((output.logits.float(), batch["labels"]))
        logits.append(gathered[0].cpu())
        labels.append(gathered[1].cpu())
    return torch.cat(logits).double().sigmoid().numpy(), torch.cat(labels).numpy()


def load_trained_model(path: str | os.PathLike) -> tuple[CSSFEForImageClassification, CSSFEImageProcessor]:
    """A trained model and its image processor from a folder or a Hub repository.

    Raises:
        ValueError: There is no CSSFE model; one line says what was looked for.
    """
    name = os.fspath(path)
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise ValueError(f"{name!r} holds no model (no config.json); give a folder that `cssfe train` wrote.")
    if not os.path.isdir(name) and (os.path.isabs(name) or name.startswith(".") or name.count("/") != 1):
        raise ValueError(f"there is no folder {name!r}; give a folder that `cssfe train` wrote or a Hub repository.")
    try:
        model = CSSFEForImageClassification.from_pretrained(name)
        processor = AutoImageProcessor.from_pretrained(name)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"cannot load a model from {name!r}: {reason}") from error
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
            f"the data's classes are not the model's: it lacks {missing or 'none'} and has {unknown or 'none'} "
            "besides; evaluate on data with the model's label names."
        )
    return labels[:, [list(names).index(name) for name in wanted]]


def evaluate_model(
    path: str | os.PathLike,
    data: "str | os.PathLike | datasets.Dataset",
    split: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    mixed_precision: str = "no",
) -> dict[str, Any]:
    """Evaluate a trained model on a data set.

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
        ValueError: No such split, or classes that are not the model's.
    """
    model, processor = load_trained_model(path)
    dataset, split = _choose_split(data, split)
    accelerator = build_accelerator(mixed_precision)
    loader = build_data_loader(dataset, EvaluationTransform(processor), batch_size=batch_size, num_workers=num_workers)
    model, loader = accelerator.prepare(model, loader)
    scores, labels = compute_scores(model, loader, accelerator)
    config = accelerator.unwrap_model(model).config
    labels = align_labels(labels, label_names_of(dataset), config.label_names)
    counts = config.class_counts
    result = long_tail_map(
        scores,
        labels,
        counts if counts is not None else [config.head_min] * config.num_labels,
        config.head_min,
        config.tail_max,
        label_names=config.label_names,
        threshold=0.5 if config.thresholds is None else config.thresholds,
    )
    return {"model": os.fspath(path), "split": split, "num_images": len(labels), **result}


def _choose_split(data, split: str | None) -> tuple["datasets.Dataset", str]:
    import datasets

    if isinstance(data, datasets.Dataset):
        return data, split or "data"
    splits = load_images(data)
    if split is None:
        split = next((name for name in ("test", "validation") if name in splits), None)
        if split is None and len(splits) == 1:
            split = next(iter(splits))
    if split is None or split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}: name one with --split.")
    return splits[split], split


__all__ = ["align_labels", "compute_scores", "evaluate_model", "load_trained_model"]
