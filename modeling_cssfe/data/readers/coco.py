# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""COCO object annotations (JSON): an image has every category that one of its annotations has.

Categories are ordered by their COCO id, the order in which the field counts classes. Images without annotations stay:
they are negatives of every class. Format: https://cocodataset.org/#format-data.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .labels import RowLabels, check_label_names
from .records import ImageRecord, existing_image, folder_inside
from .splits import split_of


DIFFICULT_RULES = ("positive", "ignore", "unknown")


def coco_files(root: Path) -> list[Path]:
    """Return the annotation files of a COCO folder: `annotations/`, else the folder and its split sub-folders.

    Where there are files `instances_*.json`, only these: keypoints and captions of the same images lie beside them.
    """
    places = [root / "annotations"] if (root / "annotations").is_dir() else [root]
    if places == [root]:
        places += sorted(path for path in root.iterdir() if path.is_dir() and split_of(path.name))
    found = [path for place in places for path in sorted(place.glob("*.json")) if _may_be_coco(path)]
    return [path for path in found if path.name.startswith("instances_")] or found


def read_coco(
    files: Sequence[Path], root: Path, image_root: Path | None = None, difficult: str = "positive"
) -> tuple[dict[str, list[ImageRecord]], list[str]]:
    """Read COCO annotation files, one a split.

    Args:
        files: The JSON files; the split is in the file's name or its folder's name, else `train`.
        root: The data set's folder, resolved; images are looked for in it.
        image_root: Folder of the images, if not one of the usual places.
        difficult: What an annotation with `iscrowd` says: its category is present (`"positive"`, as in the LT-COCO
            benchmark), it says nothing (`"ignore"`), or the category is unknown unless another annotation shows it.

    Returns:
        The images of each split, and the category names by category id.

    Raises:
        ValueError: A file is no COCO file or contradicts itself, or two are of the same split.
        FileNotFoundError: An image does not exist.
    """
    records: dict[str, list[ImageRecord]] = {}
    names: list[str] = []
    for file in files:
        split = split_of(file.stem) or split_of(file.parent.name) or "train"
        if split in records:
            raise ValueError(
                f"{root} has two annotation files of the split {split!r}, one of them {file.name!r}; pass the path of "
                "the one to use."
            )
        data = parse_coco(file.read_bytes(), str(file))
        categories = coco_categories(data, str(file))
        if names and list(categories.values()) != names:
            differing = sorted(set(names) ^ set(categories.values())) or names
            raise ValueError(
                f"{file} has other categories than the other split, or another order: {', '.join(differing[:5])}; give "
                "all splits the same categories."
            )
        names = list(categories.values())
        records[split] = _records(data, categories, file, _image_folder(data, file, root, image_root, split), difficult)
    return records, names


def parse_coco(content: bytes, where: str) -> dict[str, Any]:
    """Read a COCO file's content; outlines of objects, the most of it, are dropped as it is read.

    Args:
        content: The JSON text.
        where: The file, for errors.

    Raises:
        ValueError: It is no JSON, or lacks one of the lists images, annotations and categories.
    """
    try:
        data = json.loads(content, object_hook=_without_outline)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is no JSON ({error}); download or write it again.") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise ValueError(f"{where} has no list {key!r}; a COCO file has images, annotations and categories.")
        if not all(isinstance(entry, dict) for entry in data[key]):
            raise ValueError(f"{where}: an entry of {key!r} is no JSON object; correct the file.")
    if not data["images"]:
        raise ValueError(f"{where} lists no images; a split needs at least one.")
    return data


def _without_outline(entry: dict[str, Any]) -> dict[str, Any]:
    entry.pop("segmentation", None)
    return entry


def coco_categories(data: Mapping[str, Any], where: str) -> dict[Any, str]:
    """Return the category names by id, in the order of the ids.

    Raises:
        ValueError: A category lacks one of the two, or two have the same.
    """
    try:
        categories = {entry["id"]: entry["name"] for entry in data["categories"]}
        ordered = dict(sorted(categories.items()))
    except (KeyError, TypeError):
        raise ValueError(f"{where}: a category lacks an id or a name, or ids are of mixed types; correct it.") from None
    if len(ordered) != len(data["categories"]):
        raise ValueError(f"{where}: two categories have one id; give each its own.")
    check_label_names(ordered.values(), f"{where}, categories,")
    return ordered


def coco_labels(
    data: Mapping[str, Any], categories: Mapping[Any, str], where: str, difficult: str = "positive"
) -> dict[Any, RowLabels]:
    """Return the labels of each image by image id; see `read_coco` for the options.

    Raises:
        ValueError: Two images have one id, or an annotation names an image or a category that is not listed.
    """
    present: dict[Any, set[str]] = {}
    try:
        for image in data["images"]:
            if image["id"] in present:
                raise ValueError(f"{where}: two images have the id {image['id']!r}; give each its own.")
            present[image["id"]] = set()
        unknown: dict[Any, set[str]] = {image_id: set() for image_id in present}
        for annotation in data["annotations"]:
            image_id, category_id = annotation["image_id"], annotation["category_id"]
            if category_id not in categories:
                raise ValueError(
                    f"{where}: an annotation of image {image_id!r} has the category id {category_id!r}, which is not "
                    "among the categories; add the category or correct the annotation."
                )
            if image_id not in present:
                raise ValueError(
                    f"{where}: an annotation names the image id {image_id!r}, which is not listed; add it."
                )
            if not annotation.get("iscrowd") or difficult == "positive":
                present[image_id].add(categories[category_id])
            elif difficult == "unknown":
                unknown[image_id].add(categories[category_id])
        return {
            image_id: RowLabels(tuple(sorted(labels)), tuple(sorted(unknown[image_id] - labels)))
            for image_id, labels in present.items()
        }
    except KeyError as error:
        raise ValueError(f"{where}: an image or annotation lacks the key {error.args[0]!r}; add it.") from None
    except TypeError:  # a list or an object where an id should be
        raise ValueError(f"{where}: the id of an image or category is neither number nor text; correct it.") from None


def _records(
    data: Mapping[str, Any], categories: Mapping[Any, str], file: Path, folder: Path, difficult: str
) -> list[ImageRecord]:
    labels = coco_labels(data, categories, str(file), difficult)
    try:
        return [
            ImageRecord(
                str(image["id"]), existing_image(folder, str(image["file_name"]), str(file)), labels[image["id"]]
            )
            for image in data["images"]
        ]
    except KeyError as error:
        raise ValueError(f"{file}: an image lacks the key {error.args[0]!r}; add it.") from None


def _image_folder(data: Mapping[str, Any], file: Path, root: Path, asked: Path | None, split: str) -> Path:
    """Return the folder, resolved, that has the file's first image; unless asked for, it lies in the data set's."""
    if asked is not None:
        return asked.resolve()
    first = str(data["images"][0].get("file_name", ""))
    of_split = [
        path
        for parent in (root, root / "images")
        if parent.is_dir()
        for path in sorted(parent.iterdir())
        if path.is_dir() and _is_of(path, split)
    ]
    places = [file.parent, file.parent / "images", *of_split, root / "images", root]
    for place in places:
        if (place / first).is_file():
            return folder_inside(root, place)
    tried = ", ".join(dict.fromkeys(str(place) for place in places))
    raise FileNotFoundError(f"{file} names the image {first!r}, which is in none of {tried}; pass image_root=....")


def _is_of(folder: Path, split: str) -> bool:
    try:
        return split_of(folder.name) == split
    except ValueError:
        return False


def _may_be_coco(path: Path) -> bool:
    # A folder's other JSON files (settings, class lists) are short or say nothing of images near their ends, but only
    # parsing would tell: an "annotations" key is what makes a file a candidate, and a candidate that is broken is an
    # error, not another format.
    return path.name not in ("dataset_dict.json", "dataset_info.json", "state.json") and b'"annotations"' in (
        path.read_bytes()
    )


__all__ = ["DIFFICULT_RULES", "coco_categories", "coco_files", "coco_labels", "parse_coco", "read_coco"]
