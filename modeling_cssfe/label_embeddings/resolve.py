# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Label embeddings from whatever the caller names."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .checks import check_embeddings, check_label_names
from .files import load_label_embeddings
from .templates import Templates
from .text_encoders import encode_label_names
from .word_vectors import GLOVE, SUFFIXES, embed_with_word_vectors


DEFAULT_DIM = 512  # that of CLIP ViT-B text embeddings


def resolve_label_embeddings(
    source: torch.Tensor | np.ndarray | str | os.PathLike,
    label_names: Sequence[str],
    *,
    seed: int = 0,
    dim: int | None = None,
    template: Templates | None = None,
    normalize: bool = True,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    use_cache: bool = True,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return the label embeddings that a source stands for.

    | source | gives |
    |---|---|
    | tensor or array `(classes, dim)` | its values, rows in the order of `label_names` |
    | `"FILE.safetensors"` | the tensor `label_embeddings` of the file; rows by name if the file holds names |
    | `"random"` | standard normal vectors of unit length, by seed |
    | `"FILE.txt"`, `"FILE.vec"`, `"FILE.bin"`, `"glove:FILE"` | means of word vectors; `.word_vectors` |
    | `"open_clip:NAME/TAG"`, `"open_clip:FOLDER"` | text tower of open_clip; `.open_clip_encoders` |
    | any other text | text encoder of transformers, a Hub name or a folder; `.hub_encoders` |

    Args:
        source: See the table.
        label_names: The classes, without repetition.
        seed: Of random embeddings, >= 0.
        dim: Dimension; 512 by default for random ones, and checked for all others if given.
        template: Text around a class name, with `{}` in its place; several, or a mapping from class names to these;
            `.templates`. By default "a photo of a {}." for text encoders, and the name alone for word vectors.
        normalize: Whether text encoders and word vectors give vectors of length 1.
        revision: Branch, tag or commit of a Hub repository.
        cache_dir: Folder in which the output of text encoders is kept; `cssfe/label_embeddings` in `HF_HOME` by
            default.
        use_cache: Whether to read and write that folder.

    Returns:
        `(classes, dim)` fp32 on the CPU, and the provenance, which JSON can hold.

    Raises:
        ValueError: Shape, names or values are wrong, the model cannot be loaded, or an option does not go with the
            source; one line says which.
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
            "file, a text encoder's name, a file of word vectors, or 'random'."
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
    elif os.fspath(source).startswith(GLOVE) or os.fspath(source).endswith(SUFFIXES):
        path = os.fspath(source).removeprefix(GLOVE)
        embeddings, provenance = embed_with_word_vectors(path, names, template=template, normalize=normalize)
    else:
        embeddings, provenance = encode_label_names(
            source,
            names,
            template=template,
            normalize=normalize,
            revision=revision,
            cache_dir=cache_dir,
            use_cache=use_cache,
        )
    if provenance["kind"] in ("tensor", "random", "file") and template is not None:
        raise ValueError(f"template {template!r} does not go with {provenance['source']!r}, which reads no text.")
    if "revision" not in provenance and revision is not None:
        raise ValueError(f"revision {revision!r} does not go with {provenance['source']!r}; it is for Hub names.")
    described = "the tensor of label embeddings" if provenance["kind"] == "tensor" else f"{provenance['source']!r}"
    embeddings = check_embeddings(embeddings, len(names), described, dim)
    return embeddings, {**provenance, "dim": embeddings.shape[1]}


__all__ = ["DEFAULT_DIM", "resolve_label_embeddings"]
