# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Label embeddings in safetensors files: the tensor `label_embeddings`, the names, and where they came from.

The file's metadata hold `label_names` (a JSON list), `provenance` (a JSON object) and `sha256` (of the tensor's bytes,
fp32, little-endian). Names make the order of rows irrelevant: rows are found by name. Files of others may lack all of
these.
"""

import difflib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from .checks import check_embeddings, check_label_names


TENSOR_NAME = "label_embeddings"


def save_label_embeddings(
    path: str | os.PathLike,
    embeddings: torch.Tensor,
    label_names: Sequence[str],
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write label embeddings to a safetensors file, whole or not at all.

    Args:
        path: The file; its folder must exist. An existing file is replaced.
        embeddings: `(classes, dim)`; stored as fp32.
        label_names: One name a row.
        provenance: Where the embeddings came from; anything that JSON can hold.

    Raises:
        ValueError: Shape or values are wrong, two names are the same, or the file name does not end in `.safetensors`.
        FileNotFoundError: The folder does not exist.
    """
    path = check_output(path)
    names = check_label_names(label_names)
    values = check_embeddings(embeddings, len(names), "the tensor to save")
    metadata = {
        "format": "pt",
        "label_names": json.dumps(names),
        "provenance": json.dumps(dict(provenance or {})),
        "sha256": _checksum(values),
    }
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        # As bytes, since safetensors' own files can be read by their owner alone.
        temporary.write_bytes(save({TENSOR_NAME: values}, metadata=metadata))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_output(path: str | os.PathLike) -> Path:
    """Return a path at which `save_label_embeddings` could write.

    Raises:
        ValueError: The file name does not end in `.safetensors`.
        FileNotFoundError: The folder does not exist.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{str(path)!r} does not end in .safetensors, by which the file is known; rename it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {str(path.parent)!r} does not exist; make it first.")
    return path


def load_label_embeddings(path: str | os.PathLike, label_names: Sequence[str]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Read label embeddings, with rows in the order of the label names.

    Args:
        path: A safetensors file with the tensor `label_embeddings`.
        label_names: The classes. If the file holds names, they must be the same ones, in any order; if it holds none,
            its rows are taken in this order, which the provenance then says.

    Returns:
        `(classes, dim)` fp32, and the provenance: that of the file, and its name.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no safetensors file, lacks the tensor, its values differ from its checksum, or its names or
            shape differ.
    """
    path = Path(path)
    names = check_label_names(label_names)
    if not path.is_file():
        raise FileNotFoundError(f"there is no label embedding file {str(path)!r}; check the path or embed the labels.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if TENSOR_NAME not in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                held = ", ".join(file.keys()) or "none"
                raise ValueError(f"{str(path)!r} has no tensor {TENSOR_NAME!r}, only {held}; save it under that name.")
            values = file.get_tensor(TENSOR_NAME)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{str(path)!r} is no whole safetensors file ({error}); write or copy it again.") from error
    if metadata.get("sha256") not in (None, _checksum(values)):
        raise ValueError(f"{str(path)!r} is damaged: its values differ from their checksum; write or copy it again.")
    provenance: dict[str, Any] = {"source": path.name, "kind": "file"}
    own_names = _json(metadata.get("label_names"), list, path, "label_names")
    origin = _json(metadata.get("provenance"), dict, path, "provenance")
    if origin:
        provenance["origin"] = origin
    if own_names is None:
        provenance["order"] = "assumed: the file holds no label names"
        return check_embeddings(values, len(names), f"the tensor of {str(path)!r}"), provenance
    values = check_embeddings(values, len(own_names), f"the tensor of {str(path)!r} (with its own names)")
    row = {str(name): index for index, name in enumerate(own_names)}
    if len(row) != len(own_names):
        raise ValueError(f"{str(path)!r} names a label twice; embed the labels again.")
    if set(row) != set(names):
        raise ValueError(_difference(path, names, list(row)))
    provenance["order"] = "by name"
    return values[[row[name] for name in names]].contiguous(), provenance


def _checksum(values: torch.Tensor) -> str:
    return hashlib.sha256(values.float().contiguous().numpy().astype("<f4").tobytes()).hexdigest()


def _json(text: str | None, kind: type, path: Path, key: str) -> Any:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, kind):
        raise ValueError(f"{str(path)!r}: its metadata {key!r} are no JSON {kind.__name__}; embed the labels again.")
    return value


def _difference(path: Path, names: list[str], own: list[str]) -> str:
    missing = [name for name in names if name not in set(own)]
    extra = [name for name in own if name not in set(names)]
    parts = []
    if missing:
        near = difflib.get_close_matches(missing[0], extra, n=1)
        hint = f" (is {near[0]!r} in the file meant for {missing[0]!r}?)" if near else ""
        parts.append(f"it lacks {_listed(missing)}{hint}")
    if extra:
        parts.append(f"it has {_listed(extra)} besides")
    return (
        f"{str(path)!r} is for other labels: {' and '.join(parts)}; embed the labels of this data set, or rename them."
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


__all__ = ["TENSOR_NAME", "check_output", "load_label_embeddings", "save_label_embeddings"]
