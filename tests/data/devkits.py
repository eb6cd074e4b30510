# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Small devkits in the true formats: PASCAL VOC (XML), COCO 2017 (JSON), and lists of images and class numbers."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image


VOC_CLASSES = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
]  # fmt: skip
# COCO leaves gaps among its category ids; the field numbers classes by their order.
COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]


def jpeg(seed: int, size: tuple[int, int] = (24, 16)) -> bytes:
    """A small JPEG whose pixels follow from the seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def voc_xml(year: str, stem: str, objects: Sequence[tuple[str, int]]) -> str:
    """An annotation as the devkit has it; objects are (name, difficult), every second one truncated."""
    boxes = "".join(
        f"<object><name>{name}</name><pose>Unspecified</pose><truncated>{index % 2}</truncated>"
        f"<difficult>{difficult}</difficult>"
        "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox></part>"
        "</object>"
        for index, (name, difficult) in enumerate(objects)
    )
    return (
        f"<annotation><folder>VOC{year}</folder><filename>{stem}.jpg</filename><source><database>The VOC{year} Database"
        "</database></source><size><width>24</width><height>16</height><depth>3</depth></size>"
        f"<segmented>0</segmented>{boxes}</annotation>"
    )


def write_voc_year(root: Path, year: str, images: Mapping[str, Sequence[tuple[str, int]]]) -> None:
    """Write VOCdevkit/VOC<year> below the root: images by id, with their objects."""
    devkit = root / "VOCdevkit" / f"VOC{year}"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (devkit / folder).mkdir(parents=True)
    for index, (stem, objects) in enumerate(images.items()):
        (devkit / "Annotations" / f"{stem}.xml").write_text(voc_xml(year, stem, objects))
        (devkit / "JPEGImages" / f"{stem}.jpg").write_bytes(jpeg(int(year) + index))
    (devkit / "ImageSets" / "Main" / "trainval.txt").write_text("".join(f"{stem}\n" for stem in images))


def write_coco(root: Path, images: Mapping[str, Mapping[int, Sequence[tuple[int, int]]]], names: Sequence[str]) -> None:
    """Write COCO 2017 below the root: for each folder, image ids with their objects (class number, iscrowd)."""
    (root / "annotations").mkdir(parents=True)
    for folder, members in images.items():
        (root / folder).mkdir()
        entries, annotations = [], []
        for image_id, objects in members.items():
            file_name = f"{image_id:012d}.jpg"
            (root / folder / file_name).write_bytes(jpeg(image_id))
            entries.append({"id": image_id, "file_name": file_name, "width": 24, "height": 16, "license": 1})
            for label, crowd in objects:
                outline = {"counts": [3, 4], "size": [16, 24]} if crowd else [[1.0, 1.0, 9.0, 1.0, 9.0, 8.0]]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": COCO_IDS[label],
                        "iscrowd": crowd,
                        "bbox": [1, 1, 8, 7],
                        "area": 56,
                        "segmentation": outline,
                    }
                )
        categories = [{"id": i, "name": name} for i, name in zip(COCO_IDS, names, strict=True)]
        content = {"info": {}, "images": entries, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{folder}.json").write_text(json.dumps(content))


def write_lists(folder: Path, name: str, lists: Mapping[str, Mapping[str, Sequence[int]]]) -> Path:
    """Write {name}_{split}.txt: image names with class numbers, as the published lists are."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, images in lists.items():
        lines = [" ".join([image, *map(str, labels)]) for image, labels in images.items()]
        (folder / f"{name}_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def pack_tar(source: Path, folder: str, archive: Path) -> None:
    """Pack a folder of the source into a tar file, under its name."""
    with tarfile.open(archive, "w") as tar:
        tar.add(source / folder, arcname=folder)


def pack_zip(source: Path, folder: str, archive: Path) -> None:
    """Pack a folder of the source into a zip file, under its name."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted((source / folder).rglob("*")):
            packed.write(path, path.relative_to(source).as_posix())
