# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Images and labels from wherever they are to batches, and what their long tail looks like."""

import importlib
from typing import TYPE_CHECKING

from .decoding import ImageDecodingError, ImageVerification, decode_image, verify_images
from .loading import EpochSampler, ImageDataset, build_data_loader, collate_images
from .sources import load_images
from .statistics import (
    ClassStatistics,
    class_statistics,
    label_matrix,
    label_names_of,
    multi_hot,
    require_every_class,
)
from .transforms import AUGMENTATIONS, EvaluationTransform, build_train_transform


if TYPE_CHECKING:
    from .cxr_lt import CXRLT
    from .lt_coco import LTCOCO
    from .lt_digits import LTDigits
    from .lt_voc import LTVOC
    from .nus_wide import NUSWIDE
    from .odir import ODIR5K

_BUILDERS = {
    "CXRLT": "cxr_lt",
    "LTCOCO": "lt_coco",
    "LTDigits": "lt_digits",
    "LTVOC": "lt_voc",
    "NUSWIDE": "nus_wide",
    "ODIR5K": "odir",
}


def __getattr__(name: str) -> type:
    # A builder is a subclass of datasets' own, and importing datasets takes seconds, which prediction does not need.
    if name in _BUILDERS:
        return getattr(importlib.import_module(f".{_BUILDERS[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AUGMENTATIONS",
    "CXRLT",
    "LTCOCO",
    "LTVOC",
    "NUSWIDE",
    "ODIR5K",
    "ClassStatistics",
    "EpochSampler",
    "EvaluationTransform",
    "ImageDataset",
    "ImageDecodingError",
    "ImageVerification",
    "LTDigits",
    "build_data_loader",
    "build_train_transform",
    "class_statistics",
    "collate_images",
    "decode_image",
    "label_matrix",
    "label_names_of",
    "load_images",
    "multi_hot",
    "require_every_class",
    "verify_images",
]
