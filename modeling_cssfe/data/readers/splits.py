# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Which split a file or a folder belongs to, read off its name."""

import re
from collections.abc import Iterable
from pathlib import Path


_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
_SHARD = re.compile(r"^(?P<stem>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})$")


def split_of(name: str) -> str | None:
    """Return `"train"`, `"validation"` or `"test"` as the words of a file or folder name say, or None.

    Words end at `-`, `_`, `.`, a space or a number: `train-00000-of-00002`, `instances_val2017`, `valid`.

    Raises:
        ValueError: The name holds words of different splits.
    """
    words = re.split(r"[^a-z]+", name.lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    if len(found) > 1:
        raise ValueError(f"{name!r} names several splits ({', '.join(sorted(found))}); rename it so that it names one.")
    return found.pop() if found else None


def files_by_split(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Group data files by the split in their names; files that name none are one training set.

    Raises:
        ValueError: Some files name a split and others do not, or a shard of a set `...-of-NNNNN` is missing.
    """
    groups: dict[str, list[Path]] = {}
    nameless = []
    for file in sorted(files):
        split = split_of(file.stem)
        if split is None:
            nameless.append(file)
        else:
            groups.setdefault(split, []).append(file)
    if nameless and groups:
        raise ValueError(
            f"{nameless[0].name!r} names no split beside files that do; rename it with train, validation or test, or "
            "move it out of the folder."
        )
    if nameless:
        groups["train"] = nameless
    for members in groups.values():
        _require_all_shards(members)
    return in_order(groups)


def in_order(splits: dict) -> dict:
    """Return the mapping with train, validation and test first, in this order."""
    first = [name for name in ("train", "validation", "test") if name in splits]
    return {name: splits[name] for name in [*first, *(name for name in splits if name not in first)]}


def _require_all_shards(files: list[Path]) -> None:
    shards: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = _SHARD.match(file.stem)
        if match:
            shards.setdefault((match["stem"], int(match["count"])), set()).add(int(match["index"]))
    for (stem, count), present in shards.items():
        missing = sorted(set(range(count)) - present)
        if missing:
            name = f"{stem}-{missing[0]:05d}-of-{count:05d}{files[0].suffix}"
            raise ValueError(
                f"{len(missing)} of {count} files of a split are missing, the first {name!r}; copy the whole set."
            )


__all__ = ["files_by_split", "in_order", "split_of"]
