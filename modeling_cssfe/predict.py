# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Predictions for image files through the stock `image-classification` pipeline."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .data import decode_image
from .evaluation.calibration import apply_calibration
from .training.evaluation import load_trained_model


IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def find_images(paths: Sequence[str | os.PathLike]) -> list[Path]:
    """Image files among paths; a folder stands for the images in it, sorted.

    Raises:
        FileNotFoundError: A path does not exist.
        ValueError: A folder without images.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS)
            if not files:
                raise ValueError(f"folder {os.fspath(path)!r} holds no images ({', '.join(IMAGE_ENDINGS)}).")
            found += files
        elif path.exists():
            found.append(path)
        else:
            raise FileNotFoundError(f"there is no image {os.fspath(path)!r}; check the path.")
    return found


def predict(
    path: str | os.PathLike, images: Iterable[str | os.PathLike], top_k: int | None = None
) -> Iterator[dict[str, Any]]:
    """Classify image files one after the other.

    Args:
        path: Folder or Hub repository of a trained model.
        images: Image files.
        top_k: Labels kept for each image; `None` keeps all.

    Yields:
        `{"image", "predictions"}` with `[{"label", "score", "above_threshold"}]`, highest score first. Scores are the
        sigmoid probabilities of `pipeline("image-classification")`, which knows no calibration, and it is these that
        are compared with the threshold (the configuration's, or .5). A model with a calibration adds a
        `"probability"` to each.

    Raises:
        ImageDecodingError: An image cannot be read; names it.
        ValueError: There is no model.
    """
    from transformers import pipeline

    model, processor = load_trained_model(path)
    names = model.config.label_names
    limits = dict(zip(names, model.config.thresholds or [0.5] * len(names), strict=True))
    calibrated = model.config.calibration
    group_of = dict(zip(names, model.config.groups, strict=True))
    classify = pipeline("image-classification", model=model, image_processor=processor)
    for file in images:
        scores = classify(decode_image(os.fspath(file)), top_k=top_k or len(names))
        entries = [entry | {"above_threshold": entry["score"] >= limits[entry["label"]]} for entry in scores]
        if calibrated is not None:
            groups = [group_of[entry["label"]] for entry in entries]
            probabilities = apply_calibration(np.array([entry["score"] for entry in entries]), groups, calibrated)
            entries = [
                entry | {"probability": float(value)} for entry, value in zip(entries, probabilities, strict=True)
            ]
        yield {"image": os.fspath(file), "predictions": entries}


__all__ = ["find_images", "predict"]
