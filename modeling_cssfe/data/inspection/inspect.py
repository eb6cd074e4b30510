# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a data set holds and what would go wrong in training with it: `inspect_images`.

Labels are counted as sparse matrices and images are streamed, so that a million images with a thousand classes fit into
the memory of a laptop.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...configuration_cssfe import assign_groups
from ..decoding import MAX_PIXELS
from ..statistics import label_names_of, sparse_labels
from .image_files import Copies, ImageScan, find_copies, scan_images


if TYPE_CHECKING:
    import datasets
    from scipy.sparse import csr_matrix

SEVERITIES = ("error", "warning", "note")
_SMALL_SIDE = 32  # pixels
_LARGE_PIXELS = 16_000_000
_ELONGATED = 3.0  # longer to shorter side


@dataclass(frozen=True)
class Finding:
    """Something that would go wrong, or that is good to know, before training.

    Attributes:
        kind: Short name of the check, such as `class_without_training_image`.
        severity: `"error"` (training fails or learns nothing of it), `"warning"` (results would mislead), `"note"`.
        message: One line: what was found, with names.
        mend: One line: what to do about it.
        count: How many classes, images or pairs.
        examples: Some or all of their names.
    """

    kind: str
    severity: str
    message: str
    mend: str
    count: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageSummary:
    """The image files of a split.

    Attributes:
        num_checked: Images read and decoded.
        unreadable: `(image id, reason)` of each image that cannot be decoded.
        num_bytes: Size of all files.
        formats: Readable images by file format.
        modes: Readable images by pixel mode.
        animated: Images with several frames.
        width: Smallest, median and largest width in pixels (of readable images; None without any).
        height: The same for heights.
        num_sizes: Different pairs of width and height.
        large: Images of more than 16 million pixels.
        small: Images with a side under 32 pixels.
        elongated: Images with one side more than 3 times the other.
    """

    num_checked: int
    unreadable: tuple[tuple[str, str], ...]
    num_bytes: int
    formats: dict[str, int]
    modes: dict[str, int]
    animated: int
    width: tuple[int, int, int] | None
    height: tuple[int, int, int] | None
    num_sizes: int
    large: int
    small: int
    elongated: int


@dataclass(frozen=True)
class SplitInspection:
    """The labels of a split, and its images if they were read.

    Attributes:
        num_images: Images.
        class_counts: Images that have each class.
        unknown_counts: Images of which it is unknown whether they have the class.
        labels_per_image: Number of images with 0, 1, 2, ... labels.
        unlabeled: Images without a label, and without an unknown one.
        fully_unknown: Images of which no label is known.
        pairs: `(a, b, images)` for each two classes a < b that occur together.
        repeated_ids: Image ids that several images have.
        images: None if images were not read.
    """

    num_images: int
    class_counts: tuple[int, ...]
    unknown_counts: tuple[int, ...]
    labels_per_image: tuple[int, ...]
    unlabeled: int
    fully_unknown: int
    pairs: tuple[tuple[int, int, int], ...]
    repeated_ids: tuple[str, ...]
    images: ImageSummary | None = None

    def co_occurrence(self) -> np.ndarray:
        """Return `(C, C)` float64: the share of the row's images that have the column's class; NaN without images."""
        matrix = np.diag(np.asarray(self.class_counts, dtype=np.float64))
        for first, second, count in self.pairs:
            matrix[first, second] = matrix[second, first] = count
        with np.errstate(invalid="ignore"):
            return matrix / np.diag(matrix)[:, None]


@dataclass(frozen=True)
class DuplicateImages:
    """Images of two splits, or twice the same, that are copies.

    Attributes:
        splits: The two splits.
        exact: The files are the same byte for byte; otherwise the images look alike, see `inspection_images`.
        pairs: `(id in the first split, id in the second)`; each image of the second split once.
        different_labels: Pairs with different labels.
    """

    splits: tuple[str, str]
    exact: bool
    pairs: tuple[tuple[str, str], ...]
    different_labels: int


@dataclass(frozen=True)
class Inspection:
    """What `inspect_images` found; `to_dict` gives it as JSON takes it.

    Attributes:
        label_names: The classes.
        head_min: Smallest count of a head class.
        tail_max: Counts below it are tail.
        group_split: The split whose counts make the groups: `train`, if there is one.
        group_counts: Its images of each class.
        groups: `"head"`, `"medium"` or `"tail"` for each class.
        splits: What was found in each split.
        duplicates: Copies within and across splits; empty if images were not read.
        findings: Errors first, then warnings, then notes.
    """

    label_names: tuple[str, ...]
    head_min: int
    tail_max: int
    group_split: str
    group_counts: tuple[int, ...]
    groups: tuple[str, ...]
    splits: dict[str, SplitInspection]
    duplicates: tuple[DuplicateImages, ...]
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that would stop training or make it worthless."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dictionaries, lists, text and numbers."""
        return asdict(self)


def inspect_images(
    splits: "Mapping[str, datasets.Dataset]",
    *,
    split: str | None = None,
    head_min: int = 100,
    tail_max: int = 20,
    read_images: bool = True,
    look_alikes: bool = True,
    max_pixels: int = MAX_PIXELS,
    num_threads: int = 1,
    progress: bool = True,
) -> Inspection:
    """Look at a data set before training on it.

    Args:
        splits: As `load_images` gives them.
        split: Look at this split alone; groups still follow the counts of `train`.
        head_min: Smallest count of a head class.
        tail_max: Counts below it are tail.
        read_images: Read and decode every image, for unreadable files, sizes and copies.
        look_alikes: Also find images that are the same picture, compressed or resized.
        max_pixels: Largest width x height accepted; a larger image counts as unreadable.
        num_threads: Images decoded at a time, >= 1.
        progress: Show a progress bar.

    Returns:
        Counts, groups, co-occurrence, image properties, copies, and a list of findings.

    Raises:
        ValueError: There is no such split, splits have different label names, a label id is out of range, or
            `num_threads` is below 1.
    """
    from .findings import find_problems

    if num_threads < 1:
        raise ValueError(f"num_threads must be >= 1, got {num_threads}.")
    if not splits:
        raise ValueError("there are no splits to inspect; pass what load_images gives.")
    if split is not None and split not in splits:
        raise ValueError(f"the data has no split {split!r}; it has {', '.join(splits)}.")
    group_split = "train" if "train" in splits else split or next(iter(splits))
    names = tuple(label_names_of(splits[group_split]))
    for name, table in splits.items():
        if tuple(label_names_of(table)) != names:
            raise ValueError(
                f"the splits {group_split!r} and {name!r} have different label names; load them together with "
                "load_images."
            )
    chosen = {name: table for name, table in splits.items() if split in (None, name)}
    labels = {name: _known_and_unknown(splits[name], len(names)) for name in dict.fromkeys([group_split, *chosen])}
    inspected = {name: _inspect_labels(*labels[name], _repeated_ids(splits[name])) for name in chosen}
    duplicates: tuple[DuplicateImages, ...] = ()
    if read_images:
        scans = _scan(chosen, max_pixels, num_threads, progress)
        inspected = {name: replace(entry, images=_summarise(scans[name])) for name, entry in inspected.items()}
        duplicates = tuple(_name_copies(found, chosen, labels) for found in find_copies(scans, look_alikes))
    group_counts = tuple(_counts(labels[group_split][0]))
    inspection = Inspection(
        label_names=names,
        head_min=head_min,
        tail_max=tail_max,
        group_split=group_split,
        group_counts=group_counts,
        groups=tuple(assign_groups(group_counts, head_min, tail_max)),
        splits=inspected,
        duplicates=duplicates,
        findings=(),
    )
    return replace(inspection, findings=tuple(find_problems(inspection, whole=split is None)))


def _known_and_unknown(table: "datasets.Dataset", num_classes: int) -> "tuple[csr_matrix, csr_matrix]":
    """Return which classes each image has, and which are unknown, as sparse matrices of ones."""
    labels = sparse_labels(table, num_classes)
    return (labels > 0).astype(np.int32), (labels < 0).astype(np.int32)


def _counts(matrix: "csr_matrix", axis: int = 0) -> list[int]:
    return [int(count) for count in np.asarray(matrix.sum(axis=axis)).ravel()]


def _inspect_labels(present: "csr_matrix", unknown: "csr_matrix", repeated_ids: Sequence[str]) -> SplitInspection:
    from scipy.sparse import triu

    together = triu(present.T @ present, k=1).tocoo()
    pairs = zip(together.row.tolist(), together.col.tolist(), together.data.tolist(), strict=True)
    per_image, per_image_unknown = np.diff(present.indptr), np.diff(unknown.indptr)
    return SplitInspection(
        num_images=present.shape[0],
        class_counts=tuple(_counts(present)),
        unknown_counts=tuple(_counts(unknown)),
        labels_per_image=tuple(np.bincount(per_image).tolist()),
        unlabeled=int(((per_image == 0) & (per_image_unknown == 0)).sum()),
        fully_unknown=int((per_image_unknown == present.shape[1]).sum()),
        pairs=tuple(sorted(pairs)),
        repeated_ids=tuple(repeated_ids),
    )


def _repeated_ids(table: "datasets.Dataset") -> list[str]:
    import pyarrow.compute

    counted = pyarrow.compute.value_counts(table.select_columns(["image_id"]).with_format("arrow")[:]["image_id"])
    often = counted.filter(pyarrow.compute.greater(counted.field("counts"), 1))
    return [str(value) for value in often.field("values").to_pylist()]


def _scan(
    tables: "Mapping[str, datasets.Dataset]", max_pixels: int, num_threads: int, progress: bool
) -> dict[str, ImageScan]:
    from tqdm.auto import tqdm

    total = sum(len(table) for table in tables.values())
    with tqdm(total=total, desc="Reading images", unit="image", disable=not progress) as bar:
        return {
            name: scan_images(table, max_pixels=max_pixels, num_threads=num_threads, advance=bar.update)
            for name, table in tables.items()
        }


def _summarise(scan: ImageScan) -> ImageSummary:
    width, height = (values[scan.readable].astype(np.int64) for values in (scan.widths, scan.heights))
    longer, shorter = np.maximum(width, height), np.minimum(width, height)
    return ImageSummary(
        num_checked=len(scan.readable),
        unreadable=tuple(scan.unreadable),
        num_bytes=scan.num_bytes,
        formats=dict(scan.formats.most_common()),
        modes=dict(scan.modes.most_common()),
        animated=scan.animated,
        width=_range(width),
        height=_range(height),
        num_sizes=len(np.unique(width * 2**32 + height)),
        large=int((width * height > _LARGE_PIXELS).sum()),
        small=int((shorter < _SMALL_SIDE).sum()),
        elongated=int((longer > _ELONGATED * shorter).sum()),
    )


def _range(values: np.ndarray) -> tuple[int, int, int] | None:
    return (int(values.min()), int(np.median(values)), int(values.max())) if len(values) else None


def _name_copies(
    found: Copies,
    tables: "Mapping[str, datasets.Dataset]",
    labels: "Mapping[str, tuple[csr_matrix, csr_matrix]]",
) -> DuplicateImages:
    first, second = found.splits
    rows = [list(side) for side in zip(*found.pairs, strict=True)]
    differ = np.zeros(len(found.pairs), bool)
    for one, other in zip(labels[first], labels[second], strict=True):
        differ |= np.asarray((one[rows[0]] != other[rows[1]]).sum(axis=1)).ravel() > 0
    ids = [_ids(tables[name], chosen) for name, chosen in zip(found.splits, rows, strict=True)]
    return DuplicateImages(found.splits, found.exact, tuple(zip(*ids, strict=True)), int(differ.sum()))


def _ids(table: "datasets.Dataset", rows: Iterable[int]) -> list[str]:
    return [str(name) for name in table.select_columns(["image_id"])[list(rows)]["image_id"]]


__all__ = [
    "SEVERITIES",
    "DuplicateImages",
    "Finding",
    "ImageSummary",
    "Inspection",
    "SplitInspection",
    "inspect_images",
]
