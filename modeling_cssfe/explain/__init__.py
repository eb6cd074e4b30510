# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what the model looks at."""

from .maps import LabelMaps, compute_label_maps, draw_label_maps, find_label


__all__ = ["LabelMaps", "compute_label_maps", "draw_label_maps", "find_label"]
