# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Embeddings that were made once are read again: one safetensors file for each content.

The name of a file is the sha256 of all that its values depend on: the encoder (a Hub name with its commit, or the
content of a folder), texts, names, options and the versions of the code. So a changed model or template never meets an
old file, and files may be deleted at any time.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..version import __version__
from .files import load_label_embeddings, save_label_embeddings


# Weights in other formats and what people read; no encoder reads them. Anything else might matter, so it is hashed.
_NOT_READ = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".ot", ".onnx", ".md", ".png", ".jpg", ".tmp", ".lock")

Embedded = tuple[torch.Tensor, dict[str, Any]]


def default_cache_dir() -> Path:
    """`cssfe/label_embeddings` in the home of Hugging Face's caches (`HF_HOME`)."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "cssfe" / "label_embeddings"


def folder_digest(folder: str | os.PathLike) -> str:
    """sha256 over the names and contents of a model folder's files, hidden ones and other weight formats left out."""
    folder = Path(folder)
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if not path.is_file() or path.suffix in _NOT_READ or any(part.startswith(".") for part in inside.parts):
            continue
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                content.update(chunk)
        total.update(f"{inside.as_posix()}\0{content.hexdigest()}\n".encode())
    return total.hexdigest()


def through_cache(
    identity: Mapping[str, Any], names: Sequence[str], cache_dir: str | os.PathLike | None, make: Callable[[], Embedded]
) -> Embedded:
    """Return the embeddings from the cache, or make them and keep them there.

    A damaged file is named in a warning and made again; a folder that cannot be written is named too, and no error.

    Args:
        identity: All that the values depend on; JSON can hold it.
        names: The label names.
        cache_dir: Folder of the files; `default_cache_dir()` by default.
        make: Gives `(classes, dim)` and the provenance.
    """
    folder = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser()
    versions = {"cssfe": __version__} | {package: _version(package) for package in ("transformers", "open_clip_torch")}
    content = json.dumps({**identity, "names": list(names), "versions": versions}, sort_keys=True)
    path = folder / f"{hashlib.sha256(content.encode()).hexdigest()}.safetensors"
    if path.is_file():
        try:
            embeddings, provenance = load_label_embeddings(path, names)
            return embeddings, provenance["origin"]
        except (ValueError, KeyError) as error:
            warnings.warn(f"the cache file {str(path)!r} is damaged ({error}); it is made again.", stacklevel=2)
    embeddings, provenance = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_label_embeddings(path, embeddings, names, provenance)
    except OSError as error:
        warnings.warn(f"label embeddings cannot be cached in {str(folder)!r} ({error}).", stacklevel=2)
    return embeddings, provenance


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


__all__ = ["default_cache_dir", "folder_digest", "through_cache"]
