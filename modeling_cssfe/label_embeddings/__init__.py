# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class names to label embeddings, `(classes, dim)`, from a text encoder, a file, a tensor or a seeded generator."""

from .files import load_label_embeddings, save_label_embeddings
from .resolve import resolve_label_embeddings
from .text_encoders import DEFAULT_TEMPLATE, encode_label_names


__all__ = [
    "DEFAULT_TEMPLATE",
    "encode_label_names",
    "load_label_embeddings",
    "resolve_label_embeddings",
    "save_label_embeddings",
]
