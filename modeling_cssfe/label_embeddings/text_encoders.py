# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class names through a text encoder.

The encoder runs once, when a model is built; its output is part of the model from then on, and is kept in a cache for
the next one. Source: the CSSFE paper, section 3 (frozen CLIP text encoder on "a photo of a {class}.").
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .cache import through_cache
from .checks import check_embeddings, check_label_names
from .hub_encoders import load_hub_encoder
from .model_files import LoadedEncoder, ModelFiles
from .open_clip_encoders import OPEN_CLIP, locate_open_clip
from .templates import DEFAULT_TEMPLATE, Templates, described, texts_of_names


def encode_label_names(
    model: str | os.PathLike,
    label_names: Sequence[str],
    *,
    template: Templates | None = None,
    normalize: bool = True,
    batch_size: int = 256,
    revision: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    use_cache: bool = True,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Embed class names with a text encoder.

    Args:
        model: Hub name or local folder of a text encoder with its tokenizer: CLIP, SigLIP, a sentence-transformers
            model, BERT or the like; or `open_clip:NAME/TAG` (`modeling_cssfe.label_embeddings.open_clip_encoders`).
            Only safetensors weights are read.
        label_names: The classes; underscores become spaces in the text.
        template: Text around the name, with `{}` in its place, by default "a photo of a {}."; or several, whose
            embeddings are averaged, or a mapping from class names to these
            (`modeling_cssfe.label_embeddings.templates`).
        normalize: Scale the embedding of each text to length 1, and the mean over a class's texts again (Radford et
            al., 2021, section 3.1.4, ensemble over the embedding space). Otherwise the encoder's output and its mean.
        batch_size: Texts encoded at a time, >= 1.
        revision: Branch, tag or commit of a Hub repository.
        cache_dir: Folder of the cache; `cssfe/label_embeddings` in `HF_HOME` by default.
        use_cache: Whether to read and write the cache.

    Returns:
        `(classes, dim)` fp32 on the CPU, and the provenance: model, kind, revision (or sha256 of a folder), template.

    Raises:
        ValueError: A template is malformed, the model is of a kind that is not supported, or it cannot be loaded.
        FileNotFoundError: A local folder does not exist.
    """
    names = check_label_names(label_names)
    if batch_size < 1:
        raise ValueError(f"batch_size must be >= 1, got {batch_size}.")
    template = DEFAULT_TEMPLATE if template is None else template
    texts = texts_of_names(names, template)
    source = os.fspath(model)
    origin: dict[str, Any]
    load: Callable[[], LoadedEncoder]
    if source.startswith(OPEN_CLIP):
        origin, load = locate_open_clip(source, revision)
    else:
        files = ModelFiles(source, revision)
        origin, load = files.origin(), lambda: load_hub_encoder(files)

    def embed() -> tuple[torch.Tensor, dict[str, Any]]:
        encoder = load()
        rows = _encode(encoder, texts, batch_size, normalize, source)
        kept = {} if normalize else {"normalize": False}
        return check_embeddings(rows, len(names), f"the output of {source!r}"), {
            **origin,
            **encoder.provenance,
            "template": described(template),
            **kept,
        }

    if not use_cache:
        return embed()
    return through_cache({**origin, "texts": texts, "normalize": normalize}, names, cache_dir, embed)


def mean_of_texts(vectors: torch.Tensor, counts: Sequence[int], normalize: bool, source: str) -> torch.Tensor:
    """Average the vectors of each class's texts.

    Args:
        vectors: `(texts, dim)`, class after class.
        counts: Texts of each class, each >= 1.
        normalize: Scale each vector, and each mean of several, to length 1.
        source: Where the vectors come from, for errors.

    Returns:
        `(classes, dim)`.

    Raises:
        ValueError: A vector that is to be scaled has length 0.
    """
    vectors = _unit(vectors, source) if normalize else vectors
    if max(counts) == 1:
        return vectors
    means = torch.stack([part.mean(0) for part in vectors.split(list(counts))])
    return _unit(means, source) if normalize else means


def _unit(vectors: torch.Tensor, source: str) -> torch.Tensor:
    if not vectors.any(dim=1).all():
        raise ValueError(
            f"{source!r} gives a vector of zeros, which has no direction; rename that label or pass normalize=False."
        )
    return F.normalize(vectors, dim=-1)


def _encode(
    encoder: LoadedEncoder, texts: list[list[str]], batch_size: int, normalize: bool, source: str
) -> torch.Tensor:
    from tqdm import tqdm

    flat = [text for own in texts for text in own]
    vectors = []
    with torch.inference_mode():
        # A bar where somebody looks, and only if it takes longer than a second.
        for start in tqdm(range(0, len(flat), batch_size), desc="label texts", disable=None, delay=1, leave=False):
            vectors.append(encoder.encode(flat[start : start + batch_size]))
        return mean_of_texts(torch.cat(vectors), [len(own) for own in texts], normalize, source)


__all__ = ["encode_label_names", "mean_of_texts"]
