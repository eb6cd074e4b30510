# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A page on which a trained model is tried out in a browser; it needs gradio (`pip install "cssfe[demo]"`)."""

from .page import build_demo


__all__ = ["build_demo"]
