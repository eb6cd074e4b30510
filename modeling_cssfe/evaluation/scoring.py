# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A model and a data set to a `ScoreTable`: CSSFE or any other model of `AutoModelForImageClassification`."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..common.environment import build_accelerator
from ..common.model_loading import load_image_classifier
from ..common.names import require_distinct
from ..data import EvaluationTransform, build_data_loader, label_matrix, label_names_of
from ..metrics.inputs import check_choice
from .class_counts import align_class_counts
from .logits import align_labels, compute_logits
from .score_table import ScoreTable
from .splits import JudgedSplit, load_split


if TYPE_CHECKING:
    import datasets

ACTIVATIONS = ("auto", "sigmoid", "softmax")


def score_model(
    path: str | os.PathLike,
    data: "str | os.PathLike | datasets.Dataset | JudgedSplit",
    split: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    *,
    mixed_precision: str = "no",
    activation: str = "auto",
    class_counts: Sequence[int] | Mapping[str, int] | str | os.PathLike | None = None,
    head_min: int | None = None,
    tail_max: int | None = None,
    name: str | None = None,
) -> ScoreTable:
    """Score every image of a split.

    Args:
        path: Folder or Hub repository of a model that `AutoModelForImageClassification` loads, with an image processor.
        data: What `load_images` accepts, a loaded data set, or a `JudgedSplit`.
        split: Split to judge; by default `test` if there is one, then `validation`, then the only one.
        batch_size: Images a step.
        num_workers: Loader processes.
        mixed_precision: `"no"`, `"bf16"` or `"fp16"`.
        activation: What makes probabilities of logits. `"auto"` is the sigmoid of a model whose `problem_type` is
            multi-label, and refuses any other; `"softmax"` ranks images by a softmax over the classes, which is
            another protocol: its scores of one class depend on all others.
        class_counts: Training images of each class: a sequence in the model's order, a mapping by name, or a file of
            `read_class_counts`. By default the model's own (`config.class_counts`), else the data's training split.
        head_min: Smallest count of a head class; by default the model's own, else 100.
        tail_max: Counts below it are tail; by default the model's own, else 20.
        name: Of the table; by default the path.

    Returns:
        The scores in the data set's order of images and the model's order of classes.

    Raises:
        ValueError: No such model or split, classes that are not the model's, no training counts, or a model that was
            not trained for several labels while `activation` is `"auto"`.
    """
    check_choice("activation", activation, ACTIVATIONS)
    model, processor = load_image_classifier(path)
    config = model.config
    if activation == "auto":
        if config.problem_type != "multi_label_classification":
            raise ValueError(
                f"{os.fspath(path)!r} has the problem_type {config.problem_type!r}, not 'multi_label_classification': "
                "say what its scores are with activation 'sigmoid' or 'softmax' (--activation)."
            )
        activation = "sigmoid"
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    judged = load_split(data, split)
    # Before the images are scored, which may take hours.
    require_distinct(judged.dataset["image_id"], "image id", f"split {judged.name!r}")
    labels = align_labels(label_matrix(judged.dataset), label_names_of(judged.dataset), names)
    counts = _choose_counts(names, os.fspath(path), class_counts, getattr(config, "class_counts", None), judged)

    accelerator = build_accelerator(mixed_precision)
    if accelerator.device.type == "cpu":
        model.to(memory_format=torch.channels_last)  # in which convolutions move less memory there
    loader = build_data_loader(
        judged.dataset,
        EvaluationTransform(processor),
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    model, loader = accelerator.prepare(model, loader)
    logits, _ = compute_logits(model, loader, accelerator, f"scoring {judged.name}")
    logits = logits.double()
    thresholds = getattr(config, "thresholds", None)
    return ScoreTable(
        name=os.fspath(path) if name is None else name,
        image_ids=tuple(judged.dataset["image_id"]),
        label_names=tuple(names),
        scores=(logits.sigmoid() if activation == "sigmoid" else logits.softmax(dim=1)).numpy(),
        labels=labels,
        class_counts=tuple(counts),
        head_min=_first(head_min, getattr(config, "head_min", None), 100),
        tail_max=_first(tail_max, getattr(config, "tail_max", None), 20),
        thresholds=None if thresholds is None else tuple(thresholds),
    )


def evaluate_model(
    path: str | os.PathLike,
    data: "str | os.PathLike | datasets.Dataset",
    split: str | None = None,
    batch_size: int = 32,
    num_workers: int = 0,
    mixed_precision: str = "no",
) -> dict[str, Any]:
    """Evaluate a trained model on a data set; `score_model` gives its scores.

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
    judged = load_split(data, split)
    table = score_model(path, judged, batch_size=batch_size, num_workers=num_workers, mixed_precision=mixed_precision)
    return {"model": table.name, "split": judged.name, **table.figures()}


def _choose_counts(names: list[str], where: str, given: Any, own: Sequence[int] | None, judged: JudgedSplit):
    if given is not None:
        return align_class_counts(given, names)
    if own is not None:
        return own
    if judged.class_counts is not None:
        return align_class_counts(judged.class_counts, names)
    raise ValueError(
        f"{where!r} does not know its class_counts and the data has no split 'train': give the training images of each "
        "class with class_counts (--class_counts FILE)."
    )


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


__all__ = ["ACTIVATIONS", "evaluate_model", "score_model"]
