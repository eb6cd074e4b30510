# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Trained models as files that other runtimes read: ONNX, 8-bit ONNX, and graphs of `torch.export`.

Needs `pip install cssfe[export]` (onnx, onnxscript, onnxruntime) for all but `export_torch`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .torch_export import ExportError, ExportResult, export_torch


if TYPE_CHECKING:
    from .classifier import CSSFEOnnxClassifier
    from .onnx import export_onnx

# What needs onnxruntime at import.
_LAZY = {"CSSFEOnnxClassifier": "classifier", "export_onnx": "onnx"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["CSSFEOnnxClassifier", "ExportError", "ExportResult", "export_onnx", "export_torch"]
