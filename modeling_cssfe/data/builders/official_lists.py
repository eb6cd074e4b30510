# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The lists of images and labels that define LT-VOC and LT-COCO.

The original draw of these benchmarks cannot be repeated (it iterated over Python sets), so the lists are the
definition. They come from the repository https://github.com/jiexuanyan/CPRFL (folders data/voc and data/coco), which
carries no licence; they are therefore downloaded when a benchmark is prepared, and not part of this package. A line
names an image and its classes: `VOCdevkit/VOC2012/JPEGImages/2008_000023.jpg 14 4 19`. Classes are numbered as
`VOC_NAMES` and `COCO_NAMES` are. Objects marked difficult (VOC) and crowds (COCO) count as positives in them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..readers.labels import check_label_names
from .downloads import check_digest, check_download, download, file_digest


if TYPE_CHECKING:
    import datasets

# Alphabetical, as in the devkit.
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
# By COCO category id.
COCO_NAMES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip

# HEAD is whatever the repository's default branch is called.
_ADDRESS = "https://raw.githubusercontent.com/jiexuanyan/CPRFL/HEAD/data"


class OfficialList(NamedTuple):
    """One published list.

    Attributes:
        file: Its file name.
        folder: Its folder below the repository's `data`.
        sha256: Of its bytes.
        images: Number of its lines.
        counts: Images of each class, by class id.
    """

    file: str
    folder: str
    sha256: str
    images: int
    counts: tuple[int, ...]

    @property
    def url(self) -> str:
        """Where the list is published."""
        return f"{_ADDRESS}/{self.folder}/{self.file}"


LT_VOC_LISTS: dict[str, OfficialList] = {
    "train": OfficialList(
        "voc_lt_train.txt",
        "voc",
        "2111a5e58ae8b67a112a2b2c8aa98fe8fa926ac3e1d73e2e4e0e4844c90cc047",
        1142,
        (6, 34, 8, 14, 154, 17, 249, 29, 479, 4, 240, 48, 11, 20, 775, 100, 5, 82, 7, 64),
    ),
    "test": OfficialList(
        "voc_lt_test.txt",
        "voc",
        "43b2929a86e9fe685cdf3b6b72fb90b6838ff9f9f427807e8b9502111e73750a",
        4952,
        (205, 250, 289, 176, 240, 183, 775, 332, 545, 127, 247, 433, 279, 233, 2097, 254, 98, 355, 259, 255),
    ),
}
LT_COCO_LISTS: dict[str, OfficialList] = {
    "train": OfficialList(
        "coco_lt_train.txt",
        "coco",
        "8e0c354ae2214d7ced46f4a5ae24236149296be4dcd2df74f00eba2abe6be0ce",
        1909,
        (
            1128, 37, 276, 32, 9, 41, 18, 87, 20, 50, 11, 13, 8, 97, 19, 49, 70, 17, 7, 10, 8, 6, 7, 7, 100, 39, 189,
            31, 24, 11, 12, 8, 35, 10, 25, 21, 17, 10, 20, 460, 84, 498, 126, 207, 173, 366, 39, 35, 44, 36, 29, 25,
            14, 45, 16, 73, 585, 153, 164, 44, 624, 25, 200, 137, 70, 89, 73, 127, 91, 175, 9, 237, 119, 292, 87, 113,
            15, 21, 6, 11,
        ),
    ),
    "test": OfficialList(
        "coco_lt_test.txt",
        "coco",
        "4dda722463b0ed3aada172ce1c75f46f1391e4d2bee7643760549f916a8022e5",
        5000,
        (
            2693, 149, 535, 159, 97, 189, 157, 250, 121, 191, 86, 69, 37, 235, 125, 184, 177, 128, 65, 87, 89, 49, 85,
            101, 228, 174, 292, 145, 105, 84, 120, 49, 169, 91, 97, 100, 127, 149, 167, 379, 110, 390, 155, 181, 153,
            314, 103, 76, 98, 85, 71, 81, 51, 153, 62, 124, 580, 195, 172, 149, 501, 149, 207, 183, 88, 145, 106, 214,
            54, 115, 8, 187, 101, 230, 204, 137, 28, 94, 9, 34,
        ),
    ),
}  # fmt: skip


class ListedImage(NamedTuple):
    """A line of a list: the image's name and its class ids."""

    name: str
    labels: tuple[int, ...]


def parse_list(text: str, num_classes: int, where: str) -> list[ListedImage]:
    """Read a list.

    Args:
        text: One line an image, `relative/path.jpg id id ...`.
        num_classes: Ids run from 0 to this number less one.
        where: The list, for errors.

    Returns:
        The images in the list's order, their ids sorted.

    Raises:
        ValueError: A line cannot be read, has an unknown id or the same id twice, or two lines name one image.
    """
    images: dict[str, ListedImage] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *cells = line.split()
        here = f"{where}, line {number}"
        if not all(cell.isdecimal() for cell in cells):
            raise ValueError(f"{here}: {line.strip()[:80]!r} is no image name and class numbers; correct the line.")
        labels = sorted(int(cell) for cell in cells)
        if labels and labels[-1] >= num_classes:
            raise ValueError(
                f"{here}: class {labels[-1]} does not exist; with {num_classes} classes numbers run from 0 to "
                f"{num_classes - 1}."
            )
        if len(set(labels)) != len(labels):
            raise ValueError(f"{here}: a class number is there twice; remove one.")
        if name in images:
            raise ValueError(f"{here}: the image {name!r} is listed twice; remove one line.")
        images[name] = ListedImage(name, tuple(labels))
    if not images:
        raise ValueError(f"{where} lists no image; download it again.")
    return list(images.values())


def load_lists(
    official: Mapping[str, OfficialList],
    label_names: Sequence[str],
    folder: Path | None,
    dl_manager: "datasets.DownloadManager",
    *,
    verify: bool = True,
    expected_counts: Mapping[str, Sequence[int]] | None = None,
) -> tuple[dict[str, list[ListedImage]], dict[str, str]]:
    """Read the lists of a benchmark and check that they are the right ones.

    Args:
        official: The published list of each split.
        label_names: Names of the classes.
        folder: Where the lists lie, under their published names; None downloads them.
        dl_manager: Of the builder that asks.
        verify: Whether the lists must have the published sha256.
        expected_counts: Images of each class that the splits must have; by default the published ones if `verify`,
            and none otherwise.

    Returns:
        The images of each split, and the sha256 of each list by file name.

    Raises:
        FileNotFoundError: The folder lacks a list.
        ValueError: A list is another one than published, cannot be read, has other counts than expected, or shares an
            image with another split.
        ConnectionError: A list cannot be downloaded.
    """
    names = check_label_names(label_names, "label_names")
    if expected_counts is None and verify:
        expected_counts = {split: entry.counts for split, entry in official.items()}
    images: dict[str, list[ListedImage]] = {}
    digests = {}
    for split, entry in official.items():
        if folder is None:
            file = download(dl_manager, [entry.url], "download the lists by other means and pass lists=FOLDER.")
        else:
            file = folder / entry.file
            if not file.is_file():
                raise FileNotFoundError(f"{folder} has no list {entry.file!r}; download {entry.url} into it.")
        if verify:
            mend = f"download it from {entry.url}, or pass verify_lists=False for lists of your own."
            (check_download if folder is None else check_digest)(file, entry.file, entry.sha256, "sha256", mend)
        digests[entry.file] = entry.sha256 if verify else file_digest(file)
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is no text ({error}); download it again.") from None
        images[split] = parse_list(text, len(names), entry.file)
        if verify and len(images[split]) != entry.images:
            raise ValueError(f"{entry.file} lists {len(images[split])} images instead of {entry.images}.")
        if expected_counts is not None and split in expected_counts:
            check_counts(images[split], expected_counts[split], names, entry.file)
    first: dict[str, str] = {}
    for split, members in images.items():
        for image in members:
            if first.setdefault(image.name, split) != split:
                raise ValueError(f"the image {image.name!r} is in the lists of {first[image.name]} and {split}.")
    return images, digests


def check_counts(images: Sequence[ListedImage], expected: Sequence[int], names: Sequence[str], where: str) -> None:
    """Compare the number of images of each class with what it must be.

    Raises:
        ValueError: They differ; the message shows every class that does.
    """
    if len(expected) != len(names):
        raise ValueError(f"the expected counts of {where} are {len(expected)} numbers for {len(names)} classes.")
    counts = [0] * len(names)
    for image in images:
        for label in image.labels:
            counts[label] += 1
    differing = [
        f"{name} {count} instead of {wanted}"
        for name, count, wanted in zip(names, counts, expected, strict=True)
        if count != wanted
    ]
    if differing:
        raise ValueError(f"{where} has other class counts than expected: {', '.join(differing)}; use the right list.")


__all__ = [
    "COCO_NAMES",
    "LT_COCO_LISTS",
    "LT_VOC_LISTS",
    "VOC_NAMES",
    "ListedImage",
    "OfficialList",
    "check_counts",
    "load_lists",
    "parse_list",
]
