# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Label embeddings from whatever the caller names."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .checks import check_embeddings, check_label_names
from .files import load_label_embeddings
from .text_encoders import DEFAULT_TEMPLATE, encode_label_names


DEFAULT_DIM = 512  # that of CLIP ViT-B text embeddings


def resolve_label_embeddings(
    source: torch.Tensor | np.ndarray | str | os.PathLike,
    label_names: Sequence[str],
    *,
    seed: int = 0,
    dim: int | None = None,
    template: str = DEFAULT_TEMPLATE,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the label embeddings that a source stands for.

    | source | gives |
    |---|---|
    | tensor or array `(classes, dim)` | its values, rows in the order of `label_names` |
    | `"FILE.safetensors"` | the tensor `label_embeddings` of the file; rows by name if the file holds names |
    | `"random"` | standard normal vectors of unit length, by seed |
    | any other text | the projected, L2-normalised text embeddings of that CLIP model, a Hub name or a folder |

    Args:
        source: See the table.
        label_names: The classes, without repetition.
        seed: Of random embeddings, >= 0.
        dim: Dimension; 512 by default for random ones, and checked for all others if given.
        template: Text around a class name for a text encoder, with `{}` in its place.

    Returns:
        `(classes, dim)` fp32 on the CPU, and the provenance, which JSON can hold.

    Raises:
        ValueError: Shape, names or values are wrong, or the model cannot be loaded; one line says which.
        FileNotFoundError: The file or folder does not exist.
        TypeError: The source is none of these.
    """
    names = check_label_names(label_names)
    provenance: dict[str, Any]
    if isinstance(source, np.ndarray):
        if not np.issubdtype(source.dtype, np.number):
            raise ValueError(f"label embeddings must be numbers, got an array of {source.dtype}.")
        source = torch.from_numpy(np.ascontiguousarray(source))
    if isinstance(source, torch.Tensor):
        embeddings, provenance = source, {"source": "tensor", "kind": "tensor", "order": "as given"}
    elif not isinstance(source, str | os.PathLike):
        raise TypeError(
            f"label embeddings must be a tensor, an array or text, got {type(source).__name__}; pass a *.safetensors "
            "file, a CLIP model's name, or 'random'."
        )
    elif os.fspath(source) == "random":
        if seed < 0:
            raise ValueError(f"seed must be >= 0, got {seed}.")
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be >= 1, got {dim}.")
        # numpy's stream, as torch's normal numbers differ between processors.
        rng = np.random.Generator(np.random.PCG64(seed))
        normal = torch.from_numpy(rng.standard_normal((len(names), dim or DEFAULT_DIM)))
        embeddings = torch.nn.functional.normalize(normal, dim=-1)
        provenance = {"source": "random", "kind": "random", "seed": seed}
    elif os.fspath(source).endswith(".safetensors"):
        embeddings, provenance = load_label_embeddings(source, names)
    else:
        embeddings, provenance = encode_label_names(source, names, template=template)
    described = "the tensor of label embeddings" if provenance["kind"] == "tensor" else f"{provenance['source']!r}"
    embeddings = check_embeddings(embeddings, len(names), described, dim)
    return embeddings, {**provenance, "dim": embeddings.shape[1]}


__all__ = ["DEFAULT_DIM", "resolve_label_embeddings"]
