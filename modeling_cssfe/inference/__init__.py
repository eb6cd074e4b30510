# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Predictions for any number of image files: as objects, on the screen, or in a file that can be resumed."""

from typing import TYPE_CHECKING, Any

from .boxes import find_box
from .files import find_images
from .predictor import PredictedBatch, Predictor
from .rows import predict
from .views import AUGMENTATIONS


if TYPE_CHECKING:
    from .output import PredictionReport, predict_to_file

# They need pyarrow at import, which a prediction on the screen does without.
_LAZY = ("PredictionReport", "predict_to_file")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from . import output

        return getattr(output, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AUGMENTATIONS",
    "PredictedBatch",
    "PredictionReport",
    "Predictor",
    "find_box",
    "find_images",
    "predict",
    "predict_to_file",
]
