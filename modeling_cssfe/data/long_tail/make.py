# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A long-tailed training set drawn from any multi-label image set, with validation and test from the rest.

draw = make_long_tailed(load_images("my_images")["train"], profile="pareto", max_count=800)
draw.dataset            # train, validation, test
draw.save("my_images_lt")
"""

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..statistics import label_names_of, sparse_labels
from ..stratification import class_totals, present_labels, stratified_split
from .drawing import draw_long_tail


if TYPE_CHECKING:
    import datasets

    from ...common.tables import TextTable

PROFILES = ("pareto", "exponential")
ORDERS = ("cooccurrence", "frequency")
UNLABELED_RULES = ("rest", "drop")
PARETO_SHAPE, PARETO_END = 6.0, 0.99
# Added before decimals are cut off: a result that is a whole number in exact arithmetic must not fall below it.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class LongTailDraw:
    """What `make_long_tailed` drew. Per-class values are in the order of `label_names`.

    Attributes:
        dataset: `train`, and `validation` and `test` unless they are empty.
        label_names: The classes.
        class_order: Classes in the order of the profile, the one with the largest target first.
        available: Images of each class in the source.
        targets: Wanted training images of each class.
        counts: Images of each class in each split; those of `train` are what was reached.
        deviation: Sum over classes of `|reached - target| / max(target, 1)`.
        method: `"exact"` or `"greedy"`.
        status: What is proven about the draw; see `DrawnRows`.
        gap: Largest possible fraction by which a better draw would deviate less, None if nothing is known.
        reproducible: Whether data and options alone decide on the images; see `DrawnRows`.
        options: The arguments of the draw.
    """

    dataset: "datasets.DatasetDict"
    label_names: tuple[str, ...]
    class_order: tuple[str, ...]
    available: tuple[int, ...]
    targets: tuple[int, ...]
    counts: dict[str, tuple[int, ...]]
    deviation: float
    method: str
    status: str
    gap: float | None
    reproducible: bool
    options: dict[str, Any]

    def report(self) -> dict[str, Any]:
        """All but the images, as plain values for JSON; classes are listed in the order of the profile."""
        place = {name: position for position, name in enumerate(self.label_names)}
        return {
            "options": self.options,
            "method": self.method,
            "status": self.status,
            "gap": self.gap,
            "reproducible": self.reproducible,
            "deviation": self.deviation,
            "images": {split: len(rows) for split, rows in self.dataset.items()},
            "classes": [
                {
                    "name": name,
                    "available": self.available[place[name]],
                    "target": self.targets[place[name]],
                    **{split: counts[place[name]] for split, counts in self.counts.items()},
                }
                for name in self.class_order
            ],
        }

    def table(self) -> "TextTable":
        """Target and reached counts of each class, for `modeling_cssfe.common.tables.show`."""
        from ...common.tables import text_table

        splits = list(self.counts)
        table = text_table("Images of each class", "class", "available", "target", *splits, numbers_from=1)
        for row in self.report()["classes"]:
            off = row["train"] - row["target"]
            reached = f"{row['train']} ({off:+d})" if off else str(row["train"])
            table.add_row(row["name"], row["available"], row["target"], reached, *(row[split] for split in splits[1:]))
        return table

    def save(self, output_dir: str | os.PathLike) -> None:
        """Write the splits as Parquet, `report.json` and a card; see `save_long_tailed`."""
        from .folder import save_long_tailed

        save_long_tailed(self, output_dir)


def make_long_tailed(
    dataset: "datasets.Dataset | datasets.DatasetDict",
    *,
    profile: str = "pareto",
    max_count: int | None = None,
    min_count: int = 1,
    counts: Sequence[int] | Mapping[str, int] | None = None,
    order: str = "cooccurrence",
    num_validation: int | None = None,
    num_test: int | None = None,
    unlabeled: str = "rest",
    split: str | None = None,
    seed: int = 0,
    method: str = "auto",
    time_limit: float = 60.0,
) -> LongTailDraw:
    """Draw a training set whose class counts follow a profile as closely as co-occurrence allows.

    Images that are not drawn become validation and test, stratified. Unknown labels stay unknown and count as absent.

    Args:
        dataset: As `load_images` gives it: one split, or all with `split`.
        profile: `"pareto"`, see `pareto_counts`, or `"exponential"`, see `exponential_counts`.
        max_count: Wanted images of the first class, >= `min_count`.
        min_count: Parameter of the profile, >= 1. The last class of the Pareto profile gets somewhat more.
        counts: Wanted images of each class instead of a profile: in the order of the label names, or by name.
        order: Which classes are frequent: those that come along most with others (`"cooccurrence"`, as in the field's
            benchmarks; see `cooccurrence_order`) or those frequent in the source (`"frequency"`).
        num_validation: Images of the validation split, >= 0. By default all that the test split leaves; half of the
            rest, if that is not given either.
        num_test: Images of the test split, >= 0, by default all that the validation split leaves.
        unlabeled: Images of which no label is known to be present, nor any unknown: `"rest"` puts them into validation
            and test, as negatives, and `"drop"` leaves them out. They are never drawn for training.
        split: Which split of a `DatasetDict` to draw from, or `"all"`; needed if it has several.
        seed: Of the draw and of the splits, >= 0.
        method: `"auto"`, `"exact"` or `"greedy"`; see `modeling_cssfe.data.long_tail.drawing`.
        time_limit: Seconds that the exact method may take for each of its two steps.

    Returns:
        The splits, and target against reached counts.

    Raises:
        ValueError: An argument is out of range, unknown, or does not fit the data.
        TypeError: `counts` is neither a list nor a dict.
        RuntimeError: The exact method found no solution within the time limit.
    """
    _check_choice("profile", profile, PROFILES)
    _check_choice("order", order, ORDERS)
    _check_choice("unlabeled", unlabeled, UNLABELED_RULES)
    dataset = _one_split(dataset, split)
    names = label_names_of(dataset)
    labels = sparse_labels(dataset)
    present = present_labels(labels)
    available = np.bincount(present.indices, minlength=len(names)).astype(np.int64)
    if counts is not None:
        if max_count is not None:
            raise ValueError("counts and max_count exclude each other; give a list of counts or a profile.")
        targets = _named_counts(counts, names)
        ranking = np.argsort(-targets, kind="stable")
    else:
        if max_count is None:
            raise ValueError(f"max_count is missing; the profile {profile!r} needs the images of its first class.")
        function = pareto_counts if profile == "pareto" else exponential_counts
        ranking = cooccurrence_order(present) if order == "cooccurrence" else np.argsort(-available, kind="stable")
        targets = np.empty(len(names), dtype=np.int64)
        targets[ranking] = function(len(names), max_count, min_count)
    drawn = draw_long_tail(present, targets, seed, method, time_limit)
    rest = np.setdiff1d(np.arange(len(dataset)), drawn.rows, assume_unique=True)
    if unlabeled == "drop":
        rest = rest[np.diff(labels.indptr)[rest] > 0]
    sizes = _rest_sizes(len(rest), num_validation, num_test)
    rows = {"train": drawn.rows}
    for name, members in zip(("validation", "test"), stratified_split(present[rest], sizes, seed), strict=True):
        rows[name] = rest[members]
    rows = {name: members for name, members in rows.items() if name == "train" or len(members)}
    chosen: dict[str, Any] = {"counts": "given"} if counts is not None else {
        "profile": profile, "max_count": max_count, "min_count": min_count, "order": order,
    }  # fmt: skip
    return LongTailDraw(
        dataset=_select(dataset, rows),
        label_names=tuple(names),
        class_order=tuple(names[label] for label in ranking),
        available=tuple(available.tolist()),
        targets=drawn.targets,
        counts={name: tuple(class_totals(present, members).tolist()) for name, members in rows.items()},
        deviation=drawn.deviation,
        method=drawn.method,
        status=drawn.status,
        gap=drawn.gap,
        reproducible=drawn.reproducible,
        options={**chosen, "unlabeled": unlabeled, "split": split, "seed": seed, "method": method},
    )


def pareto_counts(num_classes: int, max_count: int, min_count: int = 1) -> np.ndarray:
    """Counts of the field's benchmarks, largest first.

    `int(pdf(x_c) (max_count - min_count) / b + min_count)`, where `pdf` is the density `b / x^(b + 1)` of a Pareto
    distribution of shape b = 6 and `x_c` runs in equal steps from its 0 % to its 99 % quantile. The first count is
    `max_count`; the last is a little above `min_count`, as the density does not come down to 0: LT-VOC (800, 1)
    ends with 4, LT-COCO (1200, 1) with 6.

    Source: T. Wu et al., "Distribution-Balanced Loss for Multi-Label Classification in Long-Tailed Datasets", ECCV
    2020, section 4.1, and how its lists were made.

    Raises:
        ValueError: Not `max_count >= min_count >= 1`, or no classes.
    """
    _check_profile(num_classes, max_count, min_count)
    end = (1 - PARETO_END) ** (-1 / PARETO_SHAPE)
    steps = max(1, num_classes - 1)
    # pdf / b is x^-(b + 1).
    heights = [(1 + (end - 1) * place / steps) ** -(PARETO_SHAPE + 1) for place in range(num_classes)]
    return np.array([int(height * (max_count - min_count) + min_count + _ROUNDING) for height in heights])


def exponential_counts(num_classes: int, max_count: int, min_count: int = 1) -> np.ndarray:
    """Counts that fall by the same factor from class to class, from `max_count` to `min_count`, decimals cut off.

    Source: Y. Cui et al., "Class-Balanced Loss Based on Effective Number of Samples", CVPR 2019, section 5.1.

    Raises:
        ValueError: Not `max_count >= min_count >= 1`, or no classes.
    """
    _check_profile(num_classes, max_count, min_count)
    steps = max(1, num_classes - 1)
    falls = [(min_count / max_count) ** (place / steps) for place in range(num_classes)]
    return np.array([int(max_count * fall + _ROUNDING) for fall in falls])


def cooccurrence_order(labels: Any) -> np.ndarray:
    """Order classes by how much they come along with the others: `sum over j != c of P(c | j)`, descending.

    `P(c | j)` is the share of the images of class j that have c as well. Equals are ordered by their own number of
    images, then by number. With this reading of the benchmarks' "summed conditional co-occurrence" the order found in
    the labels of their test sets agrees with the order of their training counts (rank correlation .95 and .99; .80 and
    .76 with the sums of `P(j | c)`).

    Args:
        labels: `(N, C)` array or scipy.sparse matrix of 1, 0 and -1.

    Returns:
        `(C,)` class numbers.
    """
    present = present_labels(labels)
    together = (present.T @ present).tocsr()
    counts = together.diagonal()
    sums = []
    for label in range(together.shape[0]):
        others = together.indices[together.indptr[label] : together.indptr[label + 1]]
        shared = together.data[together.indptr[label] : together.indptr[label + 1]]
        # fsum rounds once, so that the order of the terms cannot decide between two classes.
        sums.append(math.fsum(both / counts[j] for both, j in zip(shared, others, strict=True) if j != label))
    return np.lexsort((np.arange(len(sums)), -counts, -np.array(sums)))


def _one_split(dataset: "datasets.Dataset | datasets.DatasetDict", split: str | None) -> "datasets.Dataset":
    import datasets

    if not isinstance(dataset, datasets.DatasetDict):
        if split is not None:
            raise ValueError(f"split {split!r} is given, but the data set is one split already; leave split out.")
        return dataset
    known = ", ".join(map(repr, dataset))
    if split is None:
        if len(dataset) != 1:
            raise ValueError(f"the data set has the splits {known}; name the split to draw from, or 'all', with split.")
        return next(iter(dataset.values()))
    if split != "all":
        _check_choice("split", split, [*dataset, "all"])
        return dataset[split]
    together = datasets.concatenate_datasets(list(dataset.values()))
    ids = together["image_id"][:]
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(image_id for image_id in ids if image_id in seen or seen.add(image_id))  # type: ignore[func-returns-value]
        raise ValueError(
            f"two splits have an image with the id {twice!r}; draw from one split, or give all images ids."
        )
    return together


def _select(dataset: "datasets.Dataset", rows: Mapping[str, np.ndarray]) -> "datasets.DatasetDict":
    import datasets

    return datasets.DatasetDict({name: dataset.select(members) for name, members in rows.items()})


def _rest_sizes(num_images: int, num_validation: int | None, num_test: int | None) -> list[int]:
    for name, size in (("num_validation", num_validation), ("num_test", num_test)):
        if size is not None and size < 0:
            raise ValueError(f"{name} must be >= 0, got {size}.")
    wanted = (num_validation or 0) + (num_test or 0)
    if wanted > num_images:
        raise ValueError(
            f"num_validation and num_test ask for {wanted} images, but the draw leaves {num_images}; ask for fewer."
        )
    if num_validation is None:
        num_validation = num_images // 2 if num_test is None else num_images - num_test
    return [num_validation, num_images - num_validation if num_test is None else num_test]


def _named_counts(counts: Sequence[int] | Mapping[str, int], names: Sequence[str]) -> np.ndarray:
    if isinstance(counts, Mapping):
        for name in counts:
            _check_choice("class in counts", name, names)
        missing = [name for name in names if name not in counts]
        if missing:
            raise ValueError(f"counts lack {len(missing)} of {len(names)} classes, the first {missing[0]!r}; add them.")
        counts = [counts[name] for name in names]
    if not isinstance(counts, Sequence | np.ndarray) or isinstance(counts, str):
        raise TypeError(f"counts must be a list, or a dict by class name, got {type(counts).__name__}.")
    values = list(counts)
    if len(values) != len(names):
        raise ValueError(f"counts has {len(values)} numbers for {len(names)} classes; give one a class.")
    wrong = [value for value in values if not isinstance(value, int | np.integer) or value < 0]
    if wrong:
        raise ValueError(f"counts must be whole numbers >= 0, got {wrong[0]!r}.")
    return np.array(values, dtype=np.int64)


def _check_profile(num_classes: int, max_count: int, min_count: int) -> None:
    if num_classes < 1:
        raise ValueError(f"a profile needs at least one class, got {num_classes}.")
    if not max_count >= min_count >= 1:
        raise ValueError(f"max_count >= min_count >= 1 must hold, got max_count {max_count} and min_count {min_count}.")


def _check_choice(what: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        near = difflib.get_close_matches(str(value), list(choices), n=1)
        listed = ", ".join(map(repr, list(choices)[:20])) + (", ..." if len(choices) > 20 else "")
        hint = f" did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown {what} {value!r}; choose one of {listed}.{hint}")


__all__ = [
    "LongTailDraw",
    "cooccurrence_order",
    "exponential_counts",
    "make_long_tailed",
    "pareto_counts",
]
