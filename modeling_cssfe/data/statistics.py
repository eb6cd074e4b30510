# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Labels as multi-hot matrices, and what a data set's labels look like: counts per class and per image."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    import datasets
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class ClassStatistics:
    """Counts of a data set's labels.

    Attributes:
        label_names: The classes.
        class_counts: Images that have each class.
        unknown_counts: Images of which it is unknown whether they have the class.
        num_samples: Images.
        labels_per_image: Number of images with 0, 1, 2, ... labels.
        unlabeled: Images without a label (and without an unknown one).
    """

    label_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    unknown_counts: tuple[int, ...]
    num_samples: int
    labels_per_image: tuple[int, ...]
    unlabeled: int

    @property
    def mean_labels(self) -> float:
        """Mean number of labels of an image."""
        return sum(self.class_counts) / self.num_samples if self.num_samples else 0.0


def multi_hot(labels: Iterable[int], num_classes: int, unknown: Iterable[int] = ()) -> np.ndarray:
    """Return the labels of one image as a vector.

    Args:
        labels: Ids of the classes that the image has.
        num_classes: Length of the vector.
        unknown: Ids of the classes of which nothing is known.

    Returns:
        `(num_classes,)` float32: 1 present, 0 absent, -1 unknown.

    Raises:
        ValueError: An id is out of range, or both present and unknown.
    """
    vector = np.zeros(num_classes, dtype=np.float32)
    for ids, value in ((labels, 1.0), (unknown, -1.0)):
        for label in ids:
            if not 0 <= label < num_classes:
                raise ValueError(
                    f"label id {label} is out of range; with {num_classes} classes ids run from 0 to {num_classes - 1}."
                )
            if vector[label] == -value:
                raise ValueError(f"label id {label} is both present and unknown; remove one of the two.")
            vector[label] = value
    return vector


def label_names_of(dataset: "datasets.Dataset") -> list[str]:
    """Return the class names of a data set as `load_images` gives it.

    Raises:
        ValueError: Its `labels` are not ids of named classes.
    """
    feature = dataset.features.get("labels")
    names = getattr(getattr(feature, "feature", None), "names", None)
    if names is None:
        raise ValueError(
            f"the column 'labels' is {feature!r}, not List(ClassLabel(names=...)); load the data with load_images."
        )
    return list(names)


def label_matrix(dataset: "datasets.Dataset", num_classes: int | None = None) -> np.ndarray:
    """Return all labels of a data set; images are not read.

    Args:
        dataset: With the columns `labels` and, perhaps, `unknown_labels`.
        num_classes: Number of classes; by default that of the data set's label names.

    Returns:
        `(images, classes)` float32: 1 present, 0 absent, -1 unknown.

    Raises:
        ValueError: A label id is out of range, or both present and unknown.
    """
    return sparse_labels(dataset, num_classes).toarray().astype(np.float32)


def sparse_labels(dataset: "datasets.Dataset", num_classes: int | None = None) -> "csr_matrix":
    """Return what `label_matrix` does as a sparse matrix, for a million images with a thousand classes.

    Args:
        dataset: As for `label_matrix`.
        num_classes: As for `label_matrix`.

    Returns:
        `(images, classes)` int8: 1 present, -1 unknown.

    Raises:
        ValueError: A label id is out of range, or both present and unknown.
    """
    from scipy.sparse import csr_matrix  # half a second, which prediction does not need

    num_classes = len(label_names_of(dataset)) if num_classes is None else num_classes
    shape = (len(dataset), num_classes)
    found = []
    for column in ("labels", "unknown_labels"):
        if column not in dataset.column_names:
            found.append(csr_matrix(shape, dtype=np.int8))
            continue
        cells = dataset.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
        ids = cells.flatten().to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(len(dataset)), cells.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
        wrong = np.flatnonzero((ids < 0) | (ids >= num_classes))
        if wrong.size:
            raise ValueError(
                f"row {rows[wrong[0]]}: label id {ids[wrong[0]]} is out of range; with {num_classes} classes ids run "
                f"from 0 to {num_classes - 1}."
            )
        matrix = csr_matrix((np.ones(len(ids), dtype=np.int32), (rows, ids)), shape=shape)
        matrix.sum_duplicates()  # a label listed twice counts once
        found.append(csr_matrix((matrix > 0).astype(np.int8)))
    both = found[0].multiply(found[1]).tocoo()
    if both.nnz:
        raise ValueError(
            f"row {both.row[0]}: label id {both.col[0]} is both present and unknown; remove one of the two."
        )
    return csr_matrix(found[0] - found[1])


def class_statistics(dataset: "datasets.Dataset", label_names: Sequence[str] | None = None) -> ClassStatistics:
    """Count the labels of a data set; images are not read.

    Args:
        dataset: As `load_images` gives it.
        label_names: Class names; by default the data set's own.

    Returns:
        The counts. A label that an image lists twice counts once.

    Raises:
        ValueError: A label id is out of range.
    """
    names = label_names_of(dataset) if label_names is None else list(label_names)
    matrix = sparse_labels(dataset, len(names))
    present, unknown = matrix > 0, matrix < 0
    per_image, unknown_per_image = np.diff(present.indptr), np.diff(unknown.indptr)
    return ClassStatistics(
        label_names=tuple(names),
        class_counts=tuple(np.bincount(present.indices, minlength=len(names)).tolist()),
        unknown_counts=tuple(np.bincount(unknown.indices, minlength=len(names)).tolist()),
        num_samples=matrix.shape[0],
        labels_per_image=tuple(int(count) for count in np.bincount(per_image)),
        unlabeled=int(((per_image == 0) & (unknown_per_image == 0)).sum()),
    )


def require_every_class(statistics: ClassStatistics, split: str = "train") -> None:
    """Check that every class has an image to learn from.

    Args:
        statistics: Those of the training split.
        split: Its name, for the error.

    Raises:
        ValueError: A class has no image; the message names it.
    """
    missing = [name for name, count in zip(statistics.label_names, statistics.class_counts, strict=True) if count == 0]
    if not missing:
        return
    listed = ", ".join(map(repr, missing[:10])) + (", ..." if len(missing) > 10 else "")
    raise ValueError(
        f"{len(missing)} of {len(statistics.label_names)} classes have no image in the split {split!r}: {listed}; add "
        "images of them, or take these labels out of all splits."
    )


__all__ = [
    "ClassStatistics",
    "class_statistics",
    "label_matrix",
    "label_names_of",
    "multi_hot",
    "require_every_class",
    "sparse_labels",
]
