# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Boxes of objects, from where the labels of a data set come from: VOC XML, COCO JSON, or a column of a table.

Boxes become fractions of the image, so they hold at any size that the image is brought to, and follow a processor that
crops. Where an annotation says how large its image was, boxes are divided by that size: photographs that were shrunk
since keep their boxes. An image of another shape than the annotation says is an error, as its boxes would lie wrong.

| source | box | origin | difficult |
|---|---|---|---|
| VOC XML | `xmin ymin xmax ymax`, both ends in the box | pixels are counted from 1 | `difficult` 1 |
| COCO JSON | `bbox`: x, y, width, height | (0, 0) is the image's corner | `iscrowd` 1 |
| column `objects` | `bbox` as in COCO, or `xmin ymin xmax ymax` | as in COCO | `difficult` or `iscrowd` |

The column (also called `boxes`) stands in Parquet files, saved or Hub data sets, or metadata.jsonl: in each row a list
of objects, or one object of lists, with the class under `category`, `categories`, `label` or `name`, as a name or as
the id of a label name.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ..data.readers.coco import coco_categories, coco_files, parse_coco
from ..data.readers.image_folder import metadata_files
from ..data.readers.splits import files_by_split, split_of
from ..data.readers.voc import flat_voc_folders, voc_root


_COLUMNS = ("objects", "boxes")
_CLASS_KEYS = ("category", "categories", "label", "labels", "name")
_DIFFICULT_KEYS = ("difficult", "iscrowd", "is_crowd")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
# Shrunk photographs round their sides to whole pixels; a turned or cropped one differs by far more.
_SHAPE_TOLERANCE = 0.03


@dataclass(frozen=True)
class ImageBoxes:
    """The annotated objects of one image.

    Attributes:
        names: Class of each object.
        corners: fp64 `(n, 4)`, x0, y0, x1, y1 in pixels of the annotated image, (0, 0) its upper left corner.
        difficult: bool `(n,)`.
        size: Width and height in pixels of the annotated image; None where the annotation does not say.
        where: The annotation, for errors.
    """

    names: tuple[str, ...]
    corners: np.ndarray
    difficult: np.ndarray
    size: tuple[int, int] | None
    where: str

    def fractions(self, width: int, height: int) -> np.ndarray:
        """Boxes as fractions of the image, cut at its edges.

        Args:
            width: Of the image as it is decoded, in pixels.
            height: Likewise.

        Returns:
            fp64 `(n, 4)` in [0, 1].

        Raises:
            ValueError: The image has another shape than the annotated one, or a box lies outside of it.
        """
        of_width, of_height = self.size or (width, height)
        if abs(width * of_height / (height * of_width) - 1) > _SHAPE_TOLERANCE:
            raise ValueError(
                f"{self.where} is of an image of {of_width} x {of_height} pixels, but this one has {width} x {height}: "
                "it was turned or cropped, and its boxes no longer fit; annotate the image that is there."
            )
        boxes = np.clip(self.corners / (of_width, of_height, of_width, of_height), 0, 1)
        outside = np.flatnonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
        if outside.size:
            raise ValueError(
                f"{self.where}: the box {self.corners[outside[0]].tolist()} of {self.names[outside[0]]!r} covers "
                f"nothing of its image of {of_width} x {of_height} pixels; correct it."
            )
        return boxes


def load_boxes(
    source: str | os.PathLike, image_ids: Sequence[str], label_names: Sequence[str], split: str | None = None
) -> dict[str, ImageBoxes]:
    """Read the boxes of images.

    Args:
        source: What the images were loaded from, or another place with annotations of the same images.
        image_ids: The images, as `load_images` names them: a VOC file's stem, a COCO image's id (or its file's stem),
            a table's `image_id`.
        label_names: Classes of interest; objects of others are left out.
        split: The images' split, where a source has several.

    Returns:
        Boxes by image id; images without an object of these classes are left out.

    Raises:
        ValueError: The source has no boxes, none of these images, none of these classes, or is malformed.
        FileNotFoundError: The source does not exist.
    """
    text = os.fspath(source)
    path = Path(text).expanduser()
    wanted = set(image_ids)
    found = _from_files(path.resolve(), wanted, split) if path.exists() else _from_hub(text, wanted, split)
    if found is None:
        raise ValueError(
            f"the data {text!r} has no boxes, so localization cannot be measured on it; give VOC XML, COCO JSON or a "
            "table with a column 'objects', or name the annotations of these images with --boxes."
        )
    if not found:
        raise ValueError(f"the boxes in {text!r} are of none of the {len(wanted)} images; their ids must agree.")
    known = set(label_names)
    kept = {}
    for image_id, boxes in found.items():
        rows = [index for index, name in enumerate(boxes.names) if name in known]
        if rows:
            names = tuple(boxes.names[index] for index in rows)
            kept[image_id] = ImageBoxes(names, boxes.corners[rows], boxes.difficult[rows], boxes.size, boxes.where)
    if not kept:
        others = sorted({name for boxes in found.values() for name in boxes.names})
        raise ValueError(
            f"no box in {text!r} is of a class of the model; it has boxes of {', '.join(others[:5]) or 'nothing'}."
        )
    return kept


def _from_files(path: Path, wanted: set[str], split: str | None) -> dict[str, ImageBoxes] | None:
    if path.is_file():
        if path.suffix == ".json":
            return _from_coco([path], wanted)
        if path.suffix == ".jsonl":
            return _from_metadata([path], wanted, split)
        return _from_parquet([path], wanted, split) if path.suffix == ".parquet" else None
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        import datasets

        return _from_splits(datasets.load_from_disk(str(path)), wanted, split, str(path))
    # Tables before annotation files, as load_images does.
    parquet = sorted(path.glob("*.parquet")) or sorted((path / "data").glob("*.parquet"))
    if parquet:
        groups = files_by_split(parquet)
        return _from_parquet(groups.get(split or "", parquet), wanted, split)
    tables = [table for table in metadata_files(path) if table.suffix == ".jsonl"]
    if tables:
        return _from_metadata(tables, wanted, split)
    annotated = voc_root(path)
    if annotated is not None:
        return _from_voc([annotated / "Annotations"], wanted)
    files = coco_files(path)
    if files:
        of_split = [file for file in files if split in (split_of(file.stem), split_of(file.parent.name))]
        return _from_coco(of_split or files, wanted)
    flat = flat_voc_folders(path)
    return _from_voc(list(flat.values()), wanted) if flat else None


def _from_voc(folders: Iterable[Path], wanted: set[str]) -> dict[str, ImageBoxes]:
    files = {file.stem: file for folder in folders for file in folder.glob("*.xml") if file.stem in wanted}
    return {stem: _voc_boxes(file) for stem, file in files.items()}


def _voc_boxes(file: Path) -> ImageBoxes:
    try:
        root = ElementTree.fromstring(file.read_bytes())
        names, corners, difficult = [], [], []
        for item in root.iter("object"):
            names.append((item.findtext("name") or "").strip())
            difficult.append((item.findtext("difficult") or "0").strip() == "1")
            box = item.find("bndbox")
            if box is None:
                raise ValueError(f"the object {names[-1]!r} has no bndbox")
            x0, y0, x1, y1 = (float(box.findtext(key) or "nan") for key in _CORNERS)
            # Pixels are counted from 1 and the last one belongs to the box.
            corners.append((x0 - 1, y0 - 1, x1, y1))
        width, height = (int(float(root.findtext(f"size/{key}") or 0)) for key in ("width", "height"))
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ValueError(f"{file} is no VOC annotation with boxes ({error}); correct it.") from None
    return _checked(names, corners, difficult, (width, height), str(file))


def _from_coco(files: Iterable[Path], wanted: set[str]) -> dict[str, ImageBoxes]:
    found = {}
    for file in files:
        data = parse_coco(file.read_bytes(), str(file))
        names = coco_categories(data, str(file))
        ids: dict[Any, str] = {}
        sizes: dict[str, tuple[int, int]] = {}
        for image in data["images"]:
            for image_id in (str(image.get("id")), Path(str(image.get("file_name", ""))).stem):
                if image_id in wanted:
                    ids[image.get("id")] = image_id
                    sizes[image_id] = (int(image.get("width") or 0), int(image.get("height") or 0))
                    break
        objects: dict[str, list[tuple[str, Sequence[float], bool]]] = {image_id: [] for image_id in sizes}
        for entry in data["annotations"]:
            if entry.get("image_id") not in ids:
                continue
            if entry.get("category_id") not in names or len(entry.get("bbox") or ()) != 4:
                raise ValueError(f"{file}: annotation {entry.get('id')!r} lacks a bbox of 4 numbers or a category.")
            x, y, width, height = entry["bbox"]
            corners = (x, y, x + width, y + height)
            own = (names[entry["category_id"]], corners, bool(entry.get("iscrowd")))
            objects[ids[entry["image_id"]]].append(own)
        for image_id, rows in objects.items():
            found[image_id] = _checked(
                [row[0] for row in rows],
                [row[1] for row in rows],
                [row[2] for row in rows],
                sizes[image_id],
                f"{file}, image {image_id!r}",
            )
    return found


def _from_metadata(tables: Sequence[Path], wanted: set[str], split: str | None) -> dict[str, ImageBoxes] | None:
    import json

    found: dict[str, ImageBoxes] | None = None
    for table in tables:
        if split is not None and split_of(table.parent.name) not in (None, split):
            continue
        rows = [json.loads(line) for line in table.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        for row in rows:
            row.setdefault("image_id", row.get("id", row.get("file_name")))
        own = _from_rows(rows, None, wanted, str(table))
        found = own if found is None else found | (own or {})
    return found


def _from_parquet(files: Sequence[Path], wanted: set[str], split: str | None) -> dict[str, ImageBoxes] | None:
    import datasets
    import pyarrow as pa
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(files[0])
    columns = [name for name in (*_COLUMNS, "image_id", "id", "width", "height") if name in schema.names]
    if not set(columns) & set(_COLUMNS):
        return None
    # The images themselves, which are most of the bytes, are not read.
    rows = pa.concat_tables([pyarrow.parquet.read_table(file, columns=columns) for file in files]).to_pylist()
    features = datasets.Features.from_arrow_schema(schema)
    return _from_rows(_with_ids(rows, split or "train"), features, wanted, str(files[0]))


def _from_hub(name: str, wanted: set[str], split: str | None) -> dict[str, ImageBoxes] | None:
    if name == "lt_digits":
        from .digit_boxes import lt_digits_boxes

        return lt_digits_boxes(split or "test", wanted)
    if name in ("lt_voc", "lt_coco"):
        return None  # labels alone; annotations of the photographs are given apart
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).suffix:
        raise FileNotFoundError(f"there is no {name!r}; give the folder or file with the annotations.")
    import datasets

    try:
        loaded = datasets.load_dataset(name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(f"there is no folder {name!r} and no such data set on the Hub ({reason}).") from error
    return _from_splits(loaded, wanted, split, name)


def _from_splits(loaded: Any, wanted: set[str], split: str | None, where: str) -> dict[str, ImageBoxes] | None:
    tables = dict(loaded) if hasattr(loaded, "keys") else {split or "train": loaded}
    for name, table in tables.items():
        if split in (None, name, split_of(name)) and set(table.column_names) & set(_COLUMNS):
            columns = [c for c in (*_COLUMNS, "image_id", "id", "width", "height") if c in table.column_names]
            rows = table.select_columns(columns).with_format("arrow")[:].to_pylist()
            return _from_rows(_with_ids(rows, split or name), table.features, wanted, f"{where}, split {name!r}")
    return None


def _with_ids(rows: list[dict[str, Any]], split: str) -> list[dict[str, Any]]:
    """Ids as `load_images` gives them to tables."""
    for index, row in enumerate(rows):
        row["image_id"] = str(row.get("image_id", row.get("id", f"{split}-{index:08d}")))
    return rows


def _from_rows(
    rows: Sequence[Mapping[str, Any]], features: Any, wanted: set[str], where: str
) -> dict[str, ImageBoxes] | None:
    column = next((name for name in _COLUMNS if any(name in row for row in rows)), None)
    if column is None:
        return None
    class_names = _class_names(features[column]) if features is not None else None
    found = {}
    for row in rows:
        image_id = str(row["image_id"])
        if image_id in wanted:
            place = f"{where}, image {image_id!r}"
            try:
                names, corners, difficult = _objects(row.get(column) or [], class_names)
            except (KeyError, TypeError, ValueError, IndexError) as error:
                raise ValueError(f"{place}: cannot read {column!r} ({type(error).__name__}: {error}).") from None
            size = (int(row.get("width") or 0), int(row.get("height") or 0))
            found[image_id] = _checked(names, corners, difficult, size, place)
    return found


def _objects(
    cell: Any, class_names: Sequence[str] | None
) -> tuple[list[str], list[tuple[float, float, float, float]], list[bool]]:
    if isinstance(cell, Mapping):  # an object of lists to a list of objects
        lengths = {len(values) for values in cell.values() if isinstance(values, list)}
        if len(lengths) != 1:
            raise ValueError(f"its lists have the lengths {sorted(lengths)}; give all one entry an object")
        cell = [{key: values[i] for key, values in cell.items() if isinstance(values, list)} for i in range(*lengths)]
    names, corners, difficult = [], [], []
    for item in cell:
        own = next((item[key] for key in _CLASS_KEYS if item.get(key) is not None), None)
        if isinstance(own, int):
            if class_names is None:
                raise ValueError("classes are numbers without names; write names")
            own = class_names[own]
        if not isinstance(own, str):
            raise ValueError(f"an object has no class under {', '.join(_CLASS_KEYS)}")
        names.append(own)
        if item.get("bbox") is not None:
            x, y, width, height = (float(value) for value in item["bbox"])
            corners.append((x, y, x + width, y + height))
        else:
            x0, y0, x1, y1 = (float(item[key]) for key in _CORNERS)
            corners.append((x0, y0, x1, y1))
        difficult.append(any(bool(item.get(key)) for key in _DIFFICULT_KEYS))
    return names, corners, difficult


def _class_names(feature: Any) -> list[str] | None:
    """Names of the `ClassLabel` within a column of objects, however it is nested."""
    if hasattr(feature, "names"):
        return list(feature.names)
    inner = getattr(feature, "feature", None)
    if inner is not None:
        return _class_names(inner)
    if isinstance(feature, list):
        return _class_names(feature[0])
    if isinstance(feature, Mapping):
        return next((_class_names(feature[key]) for key in _CLASS_KEYS if key in feature), None)
    return None


def _checked(
    names: Sequence[str], corners: Sequence[Any], difficult: Sequence[bool], size: tuple[int, int], where: str
) -> ImageBoxes:
    boxes = np.array(corners, dtype=np.float64).reshape(-1, 4)
    wrong = np.flatnonzero(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] <= boxes[:, :2]).any(axis=1))
    if wrong.size:
        raise ValueError(
            f"{where}: the box {boxes[wrong[0]].tolist()} of {names[wrong[0]]!r} has no area; correct or remove it."
        )
    # Some tools write a size of 0 where they do not know it.
    return ImageBoxes(tuple(names), boxes, np.array(difficult, dtype=bool), size if min(size) > 0 else None, where)


__all__ = ["ImageBoxes", "load_boxes"]
