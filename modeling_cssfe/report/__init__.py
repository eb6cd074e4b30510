# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""An evaluation as one HTML page that opens anywhere, with its pictures as PNG files."""

from .page import write_report


__all__ = ["write_report"]
