# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The number of training images of each class, from a file, a mapping or a list: what tells head from tail."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ..common.names import name_some, require_distinct


def read_class_counts(path: str | os.PathLike) -> dict[str, int]:
    """Read the number of training images of each class.

    Args:
        path: JSON, `{"person": 775, ...}` or an object with that under `class_counts` (as `results.json` has it); or
            CSV with the columns `label` and `count`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another layout, a count is no whole number >= 0, or a class stands there twice.
    """
    path = Path(path)
    require_file(path)
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}.") from error
        content = content.get("class_counts", content) if isinstance(content, dict) else content
        if not isinstance(content, dict):
            raise ValueError(f"{path} must map class names to counts, as in {{'person': 775}}.")
        pairs = list(content.items())
    else:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"label", "count"} <= set(rows.fieldnames or ()):
                raise ValueError(f"{path} has the columns {rows.fieldnames}; it needs 'label' and 'count'.")
            pairs = [(row["label"], row["count"]) for row in rows]
    require_distinct([key for key, _ in pairs], "class", str(path))
    counts = {}
    for key, value in pairs:
        text = str(value).strip()
        if isinstance(value, bool) or not text.isascii() or not text.isdigit():
            raise ValueError(f"{path}: the count of {key!r} is {value!r}; give a whole number >= 0.")
        counts[key] = int(text)
    return counts


def align_class_counts(
    counts: Sequence[int] | Mapping[str, int] | str | os.PathLike, names: Sequence[str]
) -> list[int]:
    """Counts in the order of `names`.

    Args:
        counts: A sequence in that order already, a mapping by name, or a file of `read_class_counts`. A mapping may
            name further classes.
        names: Class names.

    Raises:
        ValueError: A sequence of another length, a mapping that lacks a class, or a count that is no whole number >= 0.
    """
    if isinstance(counts, (str, os.PathLike)):
        counts = read_class_counts(counts)
    if isinstance(counts, Mapping):
        missing = [name for name in names if name not in counts]
        if missing:
            raise ValueError(f"class_counts lacks {name_some(missing)}; give the training images of every class.")
        counts = [counts[name] for name in names]
    if len(counts) != len(names):
        raise ValueError(f"class_counts has {len(counts)} entries for {len(names)} classes: give one each.")
    for name, count in zip(names, counts, strict=True):
        if not isinstance(count, (int, float, np.number)) or not (count >= 0 and float(count).is_integer()):
            raise ValueError(f"the class count of {name!r} is {count!r}; give a whole number >= 0.")
    return [int(count) for count in counts]


def require_file(path: Path) -> None:
    """Check that there is a file.

    Raises:
        FileNotFoundError: There is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {os.fspath(path)!r}.")


__all__ = ["align_class_counts", "read_class_counts", "require_file"]
