# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""YOLO text: one `.txt` file an image, a line an object that begins with the number of its class.

The rest of a line (a box, a polygon, key points) says where the object is, which image labels do without. Class names
come from a YAML file in the layout of Ultralytics, which also names the splits, or from a `classes.txt`:

| | with `data.yaml` | with `classes.txt` |
|---|---|---|
| names | key `names`: a list, or a mapping of numbers to names | a name a line |
| splits | keys `train`, `val`, `test`: a folder, a list of files (`.txt`), or several of either | sub-folders train, val, test (of the folder or of its `images`), else all is `train` |
| folder | key `path`, else the file's own | the file's own, or the one above if that is `labels` |

The label file of `images/a/b.jpg` is `labels/a/b.txt`: the last folder called `images` gives way to `labels`; without
one, the label file lies beside the image. An image without a label file, or with an empty one, is a negative of every
class. Format: https://docs.ultralytics.com/datasets/detect/.
"""  # noqa: E501 (a table's row is one line)

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .labels import RowLabels, check_label_names
from .records import IMAGE_SUFFIXES, ImageRecord, existing_image
from .splits import split_of


YAML_SUFFIXES = (".yaml", ".yml")
_SPLIT_KEYS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_CLASSES = "classes.txt"
_MIN_COORDINATES = 4  # of a box; fewer numbers mean that a line is cut off, and then its class may be as well


def yolo_source(root: Path) -> Path | None:
    """Return the file of a folder that names the classes of YOLO labels: `data.yaml`, another like it, `classes.txt`.

    Raises:
        ValueError: There are several YAML files with class names and splits, none of them called `data.yaml`.
    """
    for name in ("data.yaml", "data.yml"):
        if (root / name).is_file():
            return root / name
    found = [path for path in sorted(root.iterdir()) if path.suffix in YAML_SUFFIXES and _may_be_yolo(path)]
    if len(found) > 1:
        raise ValueError(f"{root} holds {', '.join(path.name for path in found)}; pass the path of one of them.")
    classes = [path for path in (root / _CLASSES, root / "labels" / _CLASSES) if path.is_file()]
    return next(iter([*found, *classes]), None)


def read_yolo(source: Path, image_root: Path | None = None) -> tuple[dict[str, list[ImageRecord]], list[str]]:
    """Read a data set of YOLO text files.

    Args:
        source: Its YAML file or `classes.txt`, resolved.
        image_root: Folder of images and labels, if the file stands elsewhere; instead of its key `path`.

    Returns:
        The images of each split, whose ids are their paths below the folder, and the class names by number.

    Raises:
        ValueError: The YAML file or a label file is malformed, a class number has no name, or a path leads out.
        FileNotFoundError: A split, an image, or all label files of a split are missing.
    """
    if source.suffix in YAML_SUFFIXES:
        data = _read_yaml(source)
        names = _names(data, source)
        root = _root(data, source, image_root)
        places = _yaml_places(data, root, source)
    else:
        lines = (line.strip() for line in _text(source).splitlines())
        names = dict(enumerate(check_label_names((line for line in lines if line), str(source))))
        above = source.parent.parent if source.parent.name == "labels" else source.parent
        root = (image_root or above).resolve()
        places = _folder_places(root)
    return {split: _records(members, names, root, split, source) for split, members in places.items()}, list(
        names.values()
    )


def _may_be_yolo(path: Path) -> bool:
    text = path.read_bytes()
    return bool(re.search(rb"^names\s*:", text, re.M) and re.search(rb"^(train|val|test)\s*:", text, re.M))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not UTF-8 text; save it as UTF-8.") from None


def _read_yaml(source: Path) -> dict[str, Any]:
    import yaml

    text = _text(source)
    try:
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader), source)
        data = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{source} is no YAML ({' '.join(str(error).split())}); correct it.") from None
    if not isinstance(data, dict):
        raise ValueError(f"{source} holds no keys; a YOLO data file has the keys names, train and val.")
    return data


def _refuse_repeated_keys(node: Any, source: Path) -> None:
    """Check the file's keys and the class numbers; of two equal ones YAML would keep the last and say nothing."""
    if getattr(node, "id", None) != "mapping":
        return
    names = [value for key, value in node.value if key.value == "names" and value.id == "mapping"]
    for mapping in (node, *names):
        key, count = Counter(str(key.value) for key, _ in mapping.value).most_common(1)[0] if mapping.value else ("", 0)
        if count > 1:
            raise ValueError(f"{source} has the key {key!r} twice; remove one.")


def _names(data: Mapping[str, Any], source: Path) -> dict[int, str]:
    given = data.get("names")
    if not isinstance(given, list | dict) or not given:
        raise ValueError(f"{source} has no class names; add the key names with a name for each class number.")
    numbered = dict(given) if isinstance(given, dict) else dict(enumerate(given))
    for number, name in numbered.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise ValueError(f"{source}, names: the class number {number!r} is none; number classes 0, 1, 2, ...")
        # YAML reads yes, no, on and off as truth values, and a name that is left out as null.
        if isinstance(name, bool) or not isinstance(name, str | int | float):
            raise ValueError(f"{source}, names: class {number} is called {name!r}; write its name in quotes.")
    count = data.get("nc")
    if count is not None and count != len(numbered):
        raise ValueError(f"{source} has {len(numbered)} names but says nc: {count}; correct one of the two.")
    ordered = dict(sorted(numbered.items()))
    return dict(zip(ordered, check_label_names(ordered.values(), f"{source}, names,"), strict=True))


def _root(data: Mapping[str, Any], source: Path, image_root: Path | None) -> Path:
    """Return the folder that the paths of a YAML file start from, and must stay in."""
    own = source.parent
    if image_root is not None:
        return image_root.resolve()
    if not data.get("path"):
        return own
    named = Path(os.path.realpath(own / str(data["path"])))
    if named.is_relative_to(own) and named.is_dir():
        return named
    # `path` often is the folder of another machine, or starts from where Ultralytics keeps its data sets.
    entries = [entry for key in _SPLIT_KEYS for entry in _listed(data.get(key))]
    if entries and all((own / entry).exists() for entry in entries):
        return own
    raise ValueError(
        f"{source} has the path {str(data['path'])!r}, which is no folder inside {own}; pass image_root=... with the "
        "folder of images and labels."
    )


def _listed(entry: Any) -> list[str]:
    return [str(one) for one in (entry if isinstance(entry, list) else [entry]) if one not in (None, "")]


def _yaml_places(data: Mapping[str, Any], root: Path, source: Path) -> dict[str, list[Path]]:
    """Return the image files and image folders of each split."""
    places: dict[str, list[Path]] = {}
    for key, split in _SPLIT_KEYS.items():
        entries = _listed(data.get(key))
        if not entries:
            continue
        if split in places:
            raise ValueError(f"{source} has two keys for the split {split!r}; keep one of them.")
        places[split] = []
        for entry in entries:
            path = _place(entry, root, f"{source}, {key}")
            places[split] += _lines_of(path, root) if path.suffix == ".txt" else [path]
    if not places:
        raise ValueError(f"{source} names no images; add the key train with a folder or a list of files.")
    return places


def _place(entry: str, root: Path, where: str) -> Path:
    # Roboflow writes ../train/images beside the folder train; Ultralytics takes off the dots as well.
    for name in dict.fromkeys((entry, entry.removeprefix("../"))):
        path = Path(os.path.realpath(root / name))
        if path.is_relative_to(root) and path.exists():
            return _as_written(root / name, root)
    if not Path(os.path.realpath(root / entry)).is_relative_to(root):
        raise ValueError(
            f"{where}: {entry!r} leads out of {root}; put the images inside that folder, or pass image_root=...."
        )
    raise FileNotFoundError(f"{where} names {entry!r}, which {root} does not have; correct it or pass image_root=....")


def _lines_of(file: Path, root: Path) -> list[Path]:
    """Return the image files that a list names, a line each, from the list's own folder or the data set's."""
    found = []
    for line in filter(None, map(str.strip, _text(file).splitlines())):
        starts = (file.parent, root)
        found.append(_as_written(next((at / line for at in starts if (at / line).exists()), root / line), root))
    return found


def _as_written(path: Path, root: Path) -> Path:
    """Return an absolute path without following links: the labels of a linked image follow the link's own name."""
    written = Path(os.path.abspath(path))
    return written if written.is_relative_to(root) else Path(os.path.realpath(path))


def _folder_places(root: Path) -> dict[str, list[Path]]:
    places: dict[str, list[Path]] = {}
    for parent in (root / "images", root):
        for path in sorted(parent.iterdir()) if parent.is_dir() else []:
            split = split_of(path.name) if path.is_dir() else None
            if split in places:
                raise ValueError(f"{parent} has two folders of the split {split!r}; keep one or join them.")
            if split is not None:
                places[split] = [path / "images" if (path / "images").is_dir() else path]
        if places:
            return places
    return {"train": [root / "images" if (root / "images").is_dir() else root]}


def _records(
    places: Sequence[Path], names: Mapping[int, str], root: Path, split: str, source: Path
) -> list[ImageRecord]:
    records, labelled = [], 0
    for place in places:
        files = [place] if place.is_file() or not place.is_dir() else _images_below(place)
        expected = {file: _label_file(file, root, source) for file in files}
        for file, label_file in expected.items():
            name = file.relative_to(root).as_posix()
            has_labels = os.path.lexists(label_file)
            labelled += has_labels
            labels = _labels(label_file, root, names) if has_labels else RowLabels()
            records.append(ImageRecord(name, existing_image(root, name, f"{source}, split {split!r}"), labels))
        if place.is_dir():
            _refuse_lone_labels(_label_file(place / "x", root, source).parent, place, set(expected.values()))
    if not records:
        raise ValueError(f"{source}: split {split!r} has no image in {places[0]}; add images or remove the split.")
    if not labelled:
        first = _label_file(root / records[0].image_id, root, source)
        raise FileNotFoundError(
            f"{source}: no image of the split {split!r} has a label file; the first should be {first}."
        )
    return records


def _images_below(folder: Path) -> list[Path]:
    # os.walk does not follow links to folders, so it stays below and ends.
    return [
        Path(parent, file)
        for parent, _, files in sorted(os.walk(folder))
        for file in sorted(files)
        if os.path.splitext(file)[1].lower() in IMAGE_SUFFIXES
    ]


def _label_file(image: Path, root: Path, source: Path) -> Path:
    try:
        parts = list(image.relative_to(root).parts)
    except ValueError:
        raise ValueError(f"{source}: {image} leads out of {root}; put the image inside that folder.") from None
    folders = parts[:-1]
    if "images" in folders:
        parts[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return root.joinpath(*parts).with_suffix(".txt")


def _refuse_lone_labels(folder: Path, images: Path, expected: set[Path]) -> None:
    """Check that every label file has an image, where labels have a folder of their own."""
    if folder == images or not folder.is_dir():
        return
    for file in sorted(folder.rglob("*.txt")):
        if file not in expected and file.name != _CLASSES:
            raise FileNotFoundError(f"{images} has no image for {file}; add it or remove the label file.")


def _labels(file: Path, root: Path, names: Mapping[int, str]) -> RowLabels:
    if not Path(os.path.realpath(file)).is_relative_to(root):
        raise ValueError(f"{file} is a link that leads out of {root}; put the label file inside that folder.")
    if not file.is_file():
        raise FileNotFoundError(f"{file} is a broken link or a folder, not a label file; restore or remove it.")
    present: set[int] = set()
    for number, line in enumerate(_text(file).splitlines(), start=1):
        cells = line.split()
        if not cells:
            continue
        try:
            value = float(cells[0])
            label = int(value)
        except (ValueError, OverflowError):
            value = label = -1
        if label != value or label < 0:
            raise ValueError(
                f"{file}, line {number} begins with {cells[0][:40]!r}; a line is a class number, 0 or more, and a box."
            )
        if label not in names:
            raise ValueError(
                f"{file}, line {number}: class number {label} has no name; there are {len(names)} names, numbered "
                f"{min(names)} to {max(names)}."
            )
        if len(cells) - 1 < _MIN_COORDINATES:
            raise ValueError(
                f"{file}, line {number} has {len(cells) - 1} numbers after the class; a box has {_MIN_COORDINATES}, a "
                "polygon more."
            )
        present.add(label)
    return RowLabels(tuple(names[label] for label in sorted(present)))


__all__ = ["YAML_SUFFIXES", "read_yolo", "yolo_source"]
