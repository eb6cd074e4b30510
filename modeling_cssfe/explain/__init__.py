# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Pictures of what the model looks at."""

from .enhancement import (
    EnhancementMatrix,
    compute_enhancement_matrix,
    draw_enhancement_matrix,
    write_enhancement_matrix,
)
from .gradient_maps import find_layer, grad_cam, grad_cam_plus_plus, layer_cam
from .grids import GridRow, Panel, draw_grid, explain_images
from .kinds import MAP_KINDS, ExplainedBatch, MapKind, available_kinds, compute_maps, explain_batch, get_map_kind
from .maps import LabelMaps, compute_label_maps, draw_label_maps, find_label
from .overlays import overlay, resize_maps


__all__ = [
    "MAP_KINDS",
    "EnhancementMatrix",
    "ExplainedBatch",
    "GridRow",
    "LabelMaps",
    "MapKind",
    "Panel",
    "available_kinds",
    "compute_enhancement_matrix",
    "compute_label_maps",
    "compute_maps",
    "draw_enhancement_matrix",
    "draw_grid",
    "draw_label_maps",
    "explain_batch",
    "explain_images",
    "find_label",
    "find_layer",
    "get_map_kind",
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "overlay",
    "resize_maps",
    "write_enhancement_matrix",
]
