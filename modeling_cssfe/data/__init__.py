# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Images and labels from wherever they are to batches, and what their long tail looks like."""

import importlib
from typing import TYPE_CHECKING, Any

from .decoded_cache import DecodedCache, build_decoded_cache, decoded_cache_bytes
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
from .transforms import AUGMENTATIONS, EvaluationTransform, build_train_transform, training_draft_size


if TYPE_CHECKING:
    from .cxr_lt import CXRLT
    from .inspection import Inspection, inspect_images
    from .inspection_plots import draw_inspection
    from .long_tail import LongTailDraw, make_long_tailed
    from .lt_coco import LTCOCO
    from .lt_digits import LTDigits
    from .lt_voc import LTVOC
    from .nus_wide import NUSWIDE
    from .odir import ODIR5K
    from .streaming import build_streaming_loader

# What needs `datasets`, scipy or matplotlib at import, which take seconds and prediction does not need.
_LAZY = {
    "CXRLT": "cxr_lt",
    "LTCOCO": "lt_coco",
    "LTDigits": "lt_digits",
    "LTVOC": "lt_voc",
    "NUSWIDE": "nus_wide",
    "ODIR5K": "odir",
    "Inspection": "inspection",
    "LongTailDraw": "long_tail",
    "build_streaming_loader": "streaming",
    "draw_inspection": "inspection_plots",
    "inspect_images": "inspection",
    "make_long_tailed": "long_tail",
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
