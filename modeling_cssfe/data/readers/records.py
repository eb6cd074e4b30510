# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""From what a reader of image files found to `datasets`, with the features that every source shares."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, NamedTuple

from .labels import RowLabels, are_multi_hot, check_label_names, label_ids, name_numbers, sorted_names
from .splits import in_order


if TYPE_CHECKING:
    import datasets

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pbm")
)


class ImageRecord(NamedTuple):
    """One image file: its id, its absolute path, and its labels by name."""

    image_id: str
    path: str
    labels: RowLabels


def image_features(names: Sequence[str], with_unknown: bool = False) -> "datasets.Features":
    """Return the features that `load_images` gives every source: images stay encoded until a loader decodes them."""
    import datasets

    labels = datasets.List(datasets.ClassLabel(names=list(names)))
    features = {"image_id": datasets.Value("string"), "image": datasets.Image(decode=False), "labels": labels}
    if with_unknown:
        features["unknown_labels"] = datasets.List(datasets.ClassLabel(names=list(names)))
    return datasets.Features(features)


def settle_names(
    rows: Mapping[str, Sequence[RowLabels]],
    declared: Sequence[str] | None,
    label_names: Sequence[str] | None,
    where: str,
) -> tuple[list[str], dict[str, list[RowLabels]]]:
    """Decide on the label names and their order, and name labels that are numbers.

    Args:
        rows: Labels of each split.
        declared: The order that the source itself gives, if it does.
        label_names: The order that the caller asks for; it wins.
        where: The source, for errors.
    """
    if label_names is not None:
        names = check_label_names(label_names, "label_names")
    elif declared is not None:
        names = check_label_names(declared, where)
    else:
        names = sorted_names((row for split in rows.values() for row in split), where)
    numbered = check_label_names(declared, where) if declared is not None else names
    multi_hot = are_multi_hot((row for members in rows.values() for row in members), len(numbered))
    return names, {
        split: name_numbers(members, numbered, f"{where}, split {split!r}", multi_hot)
        for split, members in rows.items()
    }


def records_to_datasets(
    records: Mapping[str, Sequence[ImageRecord]],
    declared: Sequence[str] | None,
    label_names: Sequence[str] | None,
    where: str,
) -> "datasets.DatasetDict":
    """Build one `datasets.Dataset` a split; see `settle_names` for the label names.

    Raises:
        ValueError: A split is empty, two images of a split are the same file, or a label is wrong.
    """
    import datasets

    for split, members in records.items():
        if not members:
            raise ValueError(f"{where}: split {split!r} has no image; add images or remove the empty split.")
        seen: set[str] = set()
        for record in members:
            if record.path in seen:
                raise ValueError(f"{where}: split {split!r} lists {record.path!r} twice; keep one of the two.")
            seen.add(record.path)
    names, rows = settle_names(
        {split: [record.labels for record in members] for split, members in records.items()},
        declared,
        label_names,
        where,
    )
    ids = {split: label_ids(members, names, f"{where}, split {split!r}") for split, members in rows.items()}
    with_unknown = any(any(unknown) for _, unknown in ids.values())
    built = {}
    for split, members in in_order(dict(records)).items():
        columns: dict[str, list] = {
            "image_id": [record.image_id for record in members],
            "image": [{"bytes": None, "path": record.path} for record in members],
            "labels": ids[split][0],
        }
        if with_unknown:
            columns["unknown_labels"] = ids[split][1]
        built[split] = datasets.Dataset.from_dict(
            columns, features=image_features(names, with_unknown), split=datasets.NamedSplit(split)
        )
    return datasets.DatasetDict(built)


def path_inside(root: Path, name: str, where: str) -> Path:
    """Join a file name that data gave to the folder that it must stay in.

    Args:
        root: The folder, resolved (`Path.resolve`).
        name: Relative name, with `/` or the system's separator.
        where: The file that gave the name, for errors.

    Raises:
        ValueError: The name is empty or absolute, or leads out of the folder by `..` or by a symbolic link.
    """
    if not name or not name.strip() or "\0" in name:
        raise ValueError(
            f"{where}: the image file name {name!r} is empty or malformed; give a name relative to {root}."
        )
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive or Path(name).is_absolute():
        raise ValueError(f"{where}: the image path {name!r} is absolute; write it relative to {root}.")
    path = Path(os.path.realpath(root / name))
    if not path.is_relative_to(root):
        raise ValueError(f"{where}: the image path {name!r} leads out of {root}; put the image inside that folder.")
    return path


def folder_inside(root: Path, folder: Path) -> Path:
    """Resolve a folder that was found inside the data set's own.

    Raises:
        ValueError: It is a symbolic link that leads out.
    """
    resolved = folder.resolve()
    if not resolved.is_relative_to(root):
        raise ValueError(
            f"{folder} is a link that leads out of {root}; put the folder itself there, or pass where it leads to."
        )
    return resolved


def existing_image(root: Path, name: str, where: str) -> str:
    """Return the absolute path of an image that data name, as text.

    Raises:
        ValueError: As for `path_inside`.
        FileNotFoundError: There is no such file.
    """
    path = path_inside(root, name, where)
    if not path.is_file():
        raise FileNotFoundError(
            f"{where} names the image {name!r}, which {root} does not have; add it or remove the entry."
        )
    return str(path)


def images_in(folder: Path) -> dict[str, Path]:
    """Map the stem of each image file directly in the folder to its path.

    Raises:
        ValueError: Two images have one stem, such as `a.jpg` and `a.png`.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in IMAGE_SUFFIXES and (other := found.setdefault(path.stem, path)) != path:
            raise ValueError(
                f"{folder} has two images for the annotation of {path.stem!r}, {other.name} and {path.name}; keep one."
            )
    return found


__all__ = [
    "IMAGE_SUFFIXES",
    "ImageRecord",
    "existing_image",
    "folder_inside",
    "image_features",
    "images_in",
    "path_inside",
    "records_to_datasets",
    "settle_names",
]
