# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Images and labels from wherever they are to batches, and what their long tail looks like."""

import importlib
from typing import TYPE_CHECKING, Any

from .decoded_cache import DecodedCache, build_decoded_cache, decoded_cache_bytes
from .decoding import ImageDecodingError, ImageVerification, decode_image, verify_images
from .loading import EpochSampler, ImageDataset, build_data_loader, collate_images
from .readers.sources import load_images
from .statistics import (
    ClassStatistics,
    class_statistics,
    label_matrix,
    label_names_of,
    multi_hot,
    require_every_class,
)
from .transforms import AUGMENTATIONS, EvaluationTransform, build_train_transform, training_draft_size


if TYPE_CHECKING:
    from .builders.cxr_lt import CXRLT
    from .builders.lt_coco import LTCOCO
    from .builders.lt_digits import LTDigits
    from .builders.lt_voc import LTVOC
    from .builders.nus_wide import NUSWIDE
    from .builders.odir import ODIR5K
    from .inspection.inspect import Inspection, inspect_images
    from .inspection.plots import draw_inspection
    from .long_tail.make import LongTailDraw, make_long_tailed
    from .streaming import build_streaming_loader

# What needs `datasets`, scipy or matplotlib at import, which take seconds and prediction does not need.
_LAZY = {
    "CXRLT": "builders.cxr_lt",
    "LTCOCO": "builders.lt_coco",
    "LTDigits": "builders.lt_digits",
    "LTVOC": "builders.lt_voc",
    "NUSWIDE": "builders.nus_wide",
    "ODIR5K": "builders.odir",
    "Inspection": "inspection.inspect",
    "LongTailDraw": "long_tail.make",
    "build_streaming_loader": "streaming",
    "draw_inspection": "inspection.plots",
    "inspect_images": "inspection.inspect",
    "make_long_tailed": "long_tail.make",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AUGMENTATIONS",
    "CXRLT",
    "LTCOCO",
    "LTVOC",
    "NUSWIDE",
    "ODIR5K",
    "ClassStatistics",
    "DecodedCache",
    "EpochSampler",
    "EvaluationTransform",
    "ImageDataset",
    "ImageDecodingError",
    "ImageVerification",
    "Inspection",
    "LTDigits",
    "LongTailDraw",
    "build_data_loader",
    "build_decoded_cache",
    "build_streaming_loader",
    "build_train_transform",
    "class_statistics",
    "collate_images",
    "decode_image",
    "decoded_cache_bytes",
    "draw_inspection",
    "inspect_images",
    "label_matrix",
    "label_names_of",
    "load_images",
    "make_long_tailed",
    "multi_hot",
    "require_every_class",
    "training_draft_size",
    "verify_images",
]
