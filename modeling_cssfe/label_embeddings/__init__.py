# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class names to label embeddings, `(classes, dim)`, from a text encoder, a file, a tensor or a seeded generator."""

from .files import check_output, load_label_embeddings, save_label_embeddings
from .resolve import resolve_label_embeddings
from .templates import DEFAULT_TEMPLATE, Templates, load_templates
from .text_encoders import encode_label_names
from .word_vectors import embed_with_word_vectors


__all__ = [
    "DEFAULT_TEMPLATE",
    "Templates",
    "check_output",
    "embed_with_word_vectors",
    "encode_label_names",
    "load_label_embeddings",
    "load_templates",
    "resolve_label_embeddings",
    "save_label_embeddings",
]
