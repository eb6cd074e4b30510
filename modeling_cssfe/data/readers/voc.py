# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""PASCAL VOC annotations: one XML file an image, which lists its objects.

Two layouts are read. The official one has the folders `Annotations`, `JPEGImages` and, for the splits,
`ImageSets/Main`; in the other, XML files lie beside the images, in the folder itself or in its sub-folders train,
validation and test. Label names are the sorted names of all objects.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from .labels import RowLabels, unknown_label_message
from .records import ImageRecord, folder_inside, images_in
from .splits import split_of


# The official lists; trainval is the union of the two others, so it counts only where they are not.
_LISTS = {"train": "train", "val": "validation", "test": "test"}


def voc_root(root: Path) -> Path | None:
    """Return the folder that holds `Annotations`: this one, or the one devkit year in it or in its `VOCdevkit`.

    Raises:
        ValueError: There are several.
    """
    for pattern in ("Annotations", "*/Annotations", "VOCdevkit/*/Annotations"):
        found = sorted(path.parent for path in root.glob(pattern) if path.is_dir())
        if len(found) > 1:
            raise ValueError(f"{root} holds {', '.join(path.name for path in found)}; pass the path of one of them.")
        if found:
            return found[0]
    return None


def flat_voc_folders(root: Path) -> dict[str, Path]:
    """Return the folders, by split, in which XML files lie beside images."""
    if any(root.glob("*.xml")):
        return {"train": root}
    folders: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        split = split_of(path.name) if path.is_dir() else None
        if split is not None and any(path.glob("*.xml")):
            if split in folders:
                raise ValueError(f"{root} has two folders of the split {split!r}; keep one or join them.")
            folders[split] = folder_inside(root, path)
    return folders


def read_voc(
    root: Path, difficult: str = "positive", label_names: Sequence[str] | None = None
) -> dict[str, list[ImageRecord]]:
    """Read a VOC folder in the official layout.

    Args:
        root: The folder that holds `Annotations`, resolved.
        difficult: What an object marked difficult says: its class is present (`"positive"`, as in the LT-VOC
            benchmark), it says nothing (`"ignore"`), or the class is unknown unless another object shows it.
        label_names: Names that objects may have; any by default.

    Returns:
        The images of each split; all are `train` if there are no lists in `ImageSets/Main`.

    Raises:
        ValueError: An annotation cannot be read, has an unknown class, or is missing.
        FileNotFoundError: An image does not exist.
    """
    annotations = {path.stem: path for path in sorted((root / "Annotations").glob("*.xml"))}
    if not annotations:
        raise ValueError(f"{root / 'Annotations'} holds no XML files; unpack the annotations into it.")
    if not (root / "JPEGImages").is_dir():
        raise FileNotFoundError(f"{root} has no folder JPEGImages beside Annotations; unpack the images into it.")
    images = images_in(folder_inside(root, root / "JPEGImages"))
    lists = _lists(root)
    if not lists:
        _warn_of_lone_images(images, annotations, root)
        lists = {"train": list(annotations)}
    return {
        split: [_record(stem, annotations, images, root, difficult, label_names) for stem in stems]
        for split, stems in lists.items()
    }


def read_flat_voc(
    folders: dict[str, Path], difficult: str = "positive", label_names: Sequence[str] | None = None
) -> dict[str, list[ImageRecord]]:
    """Read folders in which XML files lie beside their images; see `read_voc`."""
    records = {}
    for split, folder in folders.items():
        annotations = {path.stem: path for path in sorted(folder.glob("*.xml"))}
        images = images_in(folder)
        _warn_of_lone_images(images, annotations, folder)
        records[split] = [_record(stem, annotations, images, folder, difficult, label_names) for stem in annotations]
    return records


def _warn_of_lone_images(images: Mapping[str, Path], annotations: Mapping[str, Path], folder: Path) -> None:
    lone = [path.name for stem, path in images.items() if stem not in annotations]
    if lone:
        # Some tools write no file for an image without objects, but an image nobody looked at has none either.
        warnings.warn(
            f"{folder}: {len(lone)} images have no XML file and are left out, the first {lone[0]!r}; an image without "
            "objects needs an <annotation> without <object>.",
            stacklevel=2,
        )


def _lists(root: Path) -> dict[str, list[str]]:
    folder = root / "ImageSets" / "Main"
    present = {split: folder / f"{name}.txt" for name, split in _LISTS.items() if (folder / f"{name}.txt").is_file()}
    if "train" not in present and "validation" not in present and (folder / "trainval.txt").is_file():
        present["train"] = folder / "trainval.txt"
    # A list's line is an id, in per-class lists followed by 1, 0 or -1.
    return {split: _stems(path) for split, path in present.items()}


def _stems(path: Path) -> list[str]:
    try:
        return [line.split()[0] for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8.") from None


def _record(
    stem: str,
    annotations: dict[str, Path],
    images: dict[str, Path],
    folder: Path,
    difficult: str,
    label_names: Sequence[str] | None,
) -> ImageRecord:
    if stem not in annotations:
        raise ValueError(f"{folder} has no annotation for the image {stem!r} of its lists; add {stem}.xml.")
    if stem not in images:
        raise FileNotFoundError(f"{folder} has no image for {annotations[stem].name}; add it or remove the annotation.")
    path = images[stem].resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{images[stem]} is a link that leads out of {folder}; put the image inside that folder.")
    file = annotations[stem]
    return ImageRecord(stem, str(path), voc_objects(file.read_bytes(), str(file), difficult, label_names))


def voc_objects(
    annotation: bytes, where: str, difficult: str = "positive", label_names: Sequence[str] | None = None
) -> RowLabels:
    """Read the labels out of one annotation; see `read_voc` for the options.

    Args:
        annotation: The XML file's content.
        where: The file, for errors.
        difficult: What an object marked difficult says.
        label_names: Names that objects may have; any by default.

    Raises:
        ValueError: It is no VOC annotation, or an object has no name or an unknown one.
    """
    try:
        root = ElementTree.fromstring(annotation)
    except (ElementTree.ParseError, LookupError, ValueError) as error:  # the latter two of its declared encoding
        raise ValueError(f"{where} is no XML ({error}); copy it again.") from None
    if root.tag != "annotation":
        raise ValueError(f"{where} holds <{root.tag}>, not a VOC <annotation>; remove it or correct it.")
    present, unknown = set(), set()
    for item in root.iter("object"):
        name = (item.findtext("name") or "").strip()
        if not name:
            raise ValueError(f"{where} has an object without a name; name its class.")
        if label_names is not None and name not in label_names:
            raise ValueError(f"{where}: {unknown_label_message(name, label_names)}")
        if (item.findtext("difficult") or "0").strip() != "1" or difficult == "positive":
            present.add(name)
        elif difficult == "unknown":
            unknown.add(name)
    return RowLabels(tuple(sorted(present)), tuple(sorted(unknown - present)))


__all__ = ["flat_voc_folders", "read_flat_voc", "read_voc", "voc_objects", "voc_root"]
