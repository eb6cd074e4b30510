# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what the model looks at."""

from .gradient_maps import find_layer, grad_cam, grad_cam_plus_plus, layer_cam
from .kinds import MAP_KINDS, ExplainedBatch, MapKind, available_kinds, compute_maps, explain_batch, get_map_kind
from .maps import LabelMaps, compute_label_maps, draw_label_maps, find_label


__all__ = [
    "MAP_KINDS",
    "ExplainedBatch",
    "LabelMaps",
    "MapKind",
    "available_kinds",
    "compute_label_maps",
    "compute_maps",
    "draw_label_maps",
    "explain_batch",
    "find_label",
    "find_layer",
    "get_map_kind",
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
]
