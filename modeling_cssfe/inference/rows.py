# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Predictions of single images: labels by falling score, for the screen and for lines of JSON."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from .files import printable
from .predictor import PredictedBatch, Predictor


def predict(
    path: str | os.PathLike, images: Iterable[str | os.PathLike], top_k: int | None = None, **options: Any
) -> Iterator[dict[str, Any]]:
    """Classify image files.

    Args:
        path: Folder or Hub repository of a trained model.
        images: Image files.
        top_k: Labels kept for each image; `None` keeps all.
        **options: Those of `Predictor`: `batch_size`, `num_workers`, `device`, `tta`, `boxes`, ...

    Yields:
        `{"image", "predictions"}` with `[{"label", "score", "above_threshold"}]`, highest score first. Scores are the
        sigmoid probabilities of `pipeline("image-classification")`, which knows no calibration, and it is these that
        are compared with the threshold (the configuration's, or .5). A model with a calibration adds a
        `"probability"` to each, and with `boxes` there is a `"box"` (or `None`) to each label above its threshold. An
        image that cannot be read has an `"error"` and no predictions.

    Raises:
        ValueError: There is no model, or an option is out of range.
    """
    predictor = Predictor.from_pretrained(path, **options)
    for batch in predictor.stream([os.fspath(image) for image in images]):
        yield from batch_entries(batch, predictor.label_names, predictor.thresholds, top_k)


def batch_entries(
    batch: PredictedBatch, label_names: Sequence[str], thresholds: np.ndarray, top_k: int | None = None
) -> Iterator[dict[str, Any]]:
    """The entries of `predict` for a batch.

    Args:
        batch: From `Predictor.stream`.
        label_names: C class names.
        thresholds: One a class.
        top_k: Labels kept for each image; `None` keeps all.
    """
    for row, image in enumerate(batch.images):
        entry: dict[str, Any] = {"image": printable(image), "predictions": []}
        if batch.errors[row] is not None:
            yield entry | {"error": printable(batch.errors[row] or "")}
            continue
        # Stable, as the pipeline sorts: classes of one score stay in their order.
        for index in np.argsort(-batch.scores[row], kind="stable")[:top_k]:
            name = label_names[index]
            score = batch.scores[row, index].item()
            label = {"label": name, "score": score, "above_threshold": bool(score >= thresholds[index])}
            if batch.probabilities is not None:
                label["probability"] = batch.probabilities[row, index].item()
            if batch.boxes is not None and name in batch.boxes[row]:
                label["box"] = batch.boxes[row][name]
            entry["predictions"].append(label)
        yield entry


__all__ = ["batch_entries", "predict"]
