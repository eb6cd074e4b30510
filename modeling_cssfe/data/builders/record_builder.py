# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What the builders of image files share: a plan of the splits, checked as a whole, then one pass over the images.

Nothing is written before the plan stands: all annotations are read and every image is known to exist. Images go into
the prepared set as the bytes that the source has. One without bytes, or whose header (for the benchmarks: any pixel)
cannot be read, stops the preparation, and `datasets` then removes what it wrote: an interrupted preparation starts
clean.
"""

import dataclasses
import functools
import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from ..decoding import decode_image
from ..readers.labels import RowLabels, label_ids
from ..readers.records import image_features
from ..readers.splits import in_order
from ..stratification import sample_covering, stratified_split
from .archives import FileTree


class Row(NamedTuple):
    """An image of a split: its id, its name in the file tree, and its present and unknown class ids."""

    image_id: str
    name: str
    labels: list[int]
    unknown_labels: list[int]


@dataclass
class Plan:
    """What will be prepared.

    Attributes:
        files: Where images are read from.
        rows: The images of each split.
        sources: Facts for the data set's card, by what they are about: where parts come from, checksums.
    """

    files: FileTree
    rows: dict[str, list[Row]]
    sources: dict[str, str] = field(default_factory=dict)


@dataclass
class RecordConfig(datasets.BuilderConfig):
    """Options of every builder of image files.

    Attributes:
        seed: Of the drawing of splits, >= 0.
    """

    seed: int = 0

    def __post_init__(self):
        """Check the values."""
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}.")

    def folder(self, option: str) -> Path | None:
        """Return a folder that an option names, resolved.

        Raises:
            FileNotFoundError: There is no such folder.
        """
        value = getattr(self, option)
        if value is None:
            return None
        path = Path(value).expanduser()
        if not path.is_dir():
            raise FileNotFoundError(f"{option} is {str(value)!r}, which is no folder; correct the path.")
        return path.resolve()

    def user_root(self) -> Path:
        """Return the folder that the option `root` names, resolved.

        Raises:
            ValueError: It is not given.
            FileNotFoundError: There is no such folder.
        """
        root = self.folder("root")
        if root is None:
            raise ValueError("root is None; pass root=FOLDER, because this set cannot be downloaded.")
        return root

    def source_files(self) -> list[Path]:
        """Files and folders of the user's that the prepared set depends on."""
        return []

    def create_config_id(self, config_kwargs: dict, custom_features: Any = None) -> str:
        """Name the cache folder; a change of the user's files gives another name, so nothing outdated is reused.

        Files go by size and time of change, folders by the time of change of their listing: an image that is exchanged
        in place is not noticed.
        """
        state = hashlib.sha256()
        files = [path for path in self.source_files() if path.exists()]
        place = functools.cache(Path.resolve)  # of folders: there may be an annotation for each image in one
        for path in files:
            facts = path.stat()
            state.update(f"{place(path.parent)}\0{path.name}\0{facts.st_size}\0{facts.st_mtime_ns}\0".encode())
        known = {**config_kwargs, "source_state": state.hexdigest()} if files else config_kwargs
        return super().create_config_id(known, custom_features)


class RecordBuilder(datasets.GeneratorBasedBuilder):
    """Base of the builders; a subclass says what the labels are called and makes the plan.

    Attributes:
        PRETTY_NAME: The data set's name, for its card.
        ABOUT: What it is and where it comes from, for its card (Markdown).
        LICENSES: The terms of images, annotations and lists, for its card (Markdown).
        DECODES: Whether every image is decoded in full, or only its header is read: that takes milliseconds an image of
            half a megapixel, and a tenth of a second for an X-ray in full resolution.
        plan: The plan, once `download_and_prepare` has run; None if the set was in the cache.
    """

    BUILDER_CONFIG_CLASS = RecordConfig
    PRETTY_NAME = ""
    ABOUT = ""
    LICENSES = ""
    DECODES = False

    # Fields of the configuration that say nothing of what is in the set: those of `datasets`, and folders.
    UNTOLD = frozenset(entry.name for entry in dataclasses.fields(datasets.BuilderConfig)) | {
        "lists",
        "voc_root",
        "coco_root",
        "root",
    }

    plan: Plan | None = None

    def label_names(self) -> Sequence[str]:
        """Return the label names."""
        raise NotImplementedError

    def has_unknown(self) -> bool:
        """Whether the set has the column `unknown_labels`."""
        return False

    def options(self) -> dict[str, Any]:
        """Return the options that are not at their defaults, and the seed, for the card; folders are left out."""
        fields = [entry for entry in dataclasses.fields(self.config) if entry.name not in self.UNTOLD]
        own = {entry.name: getattr(self.config, entry.name) for entry in fields}
        return {
            entry.name: own[entry.name] for entry in fields if entry.name == "seed" or own[entry.name] != entry.default
        }

    def make_plan(self, dl_manager: datasets.DownloadManager) -> Plan:
        """Read all annotations and decide on the splits."""
        raise NotImplementedError

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description=f"{self.PRETTY_NAME}. {self.ABOUT}",
            features=image_features(self.label_names(), self.has_unknown()),
        )

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        plan = self.make_plan(dl_manager)
        plan.rows = in_order(plan.rows)
        first: dict[str, str] = {}
        for split, rows in plan.rows.items():
            if not rows:
                raise ValueError(f"{self.PRETTY_NAME}: split {split!r} has no image; correct the source or the sizes.")
            absent = [row.name for row in rows if row.name not in plan.files]
            if absent:
                raise FileNotFoundError(
                    f"{self.PRETTY_NAME}: {len(absent)} of {len(rows)} images of split {split!r} are missing, the "
                    f"first {absent[0]!r}; add them."
                )
            for row in rows:
                if row.name in first:
                    raise ValueError(
                        f"{self.PRETTY_NAME}: the image {row.name!r} is in split {first[row.name]!r} and again in "
                        f"{split!r}; keep one of the two."
                    )
                first[row.name] = split
        self.plan = plan
        return [datasets.SplitGenerator(name=split, gen_kwargs={"split": split}) for split in plan.rows]

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict]]:
        plan = self.plan
        if plan is None:
            raise RuntimeError("_generate_examples needs the plan that _split_generators makes; call it first.")
        for index, row in enumerate(plan.rows[split]):
            content = plan.files.read(row.name)
            self._check_image(content, row)
            example = {
                "image_id": row.image_id,
                "image": {"bytes": content, "path": os.path.basename(row.name)},
                "labels": row.labels,
            }
            if self.has_unknown():
                example["unknown_labels"] = row.unknown_labels
            yield index, example

    def _check_image(self, content: bytes, row: Row) -> None:
        if not content:
            raise ValueError(f"the image {row.name!r} is empty (0 bytes); copy or download it again.")
        if self.DECODES:
            decode_image(content, image_id=row.name)
            return
        try:
            with Image.open(io.BytesIO(content)):
                pass
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"the image {row.name!r} cannot be read ({error}); copy or download it again.") from None

    def download_and_prepare(self, *args: Any, **kwargs: Any) -> None:
        """Prepare the set, as `datasets` does; errors in the data keep their one line.

        Raises:
            ValueError: Something in the source is wrong.
            FileNotFoundError: Something is missing from it.
            ConnectionError: Something cannot be downloaded.
        """
        try:
            super().download_and_prepare(*args, **kwargs)
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, ValueError | OSError):
                raise error.__cause__ from None
            raise


def rows_from_labels(members: Sequence[tuple[str, str, RowLabels]], names: Sequence[str], where: str) -> list[Row]:
    """Make rows of (image id, name, labels by name); see `label_ids` for the errors."""
    present, unknown = label_ids([labels for *_, labels in members], names, where)
    return [
        Row(image_id, name, has, maybe)
        for (image_id, name, _), has, maybe in zip(members, present, unknown, strict=True)
    ]


def presence(rows: Sequence[Row], num_classes: int) -> np.ndarray:
    """Return which labels are present, `(images, classes)` int8 of 1 and 0."""
    matrix = np.zeros((len(rows), num_classes), dtype=np.int8)
    for index, row in enumerate(rows):
        matrix[index, row.labels] = 1
    return matrix


def draw_validation(
    pool: Sequence[Row], names: Sequence[str], size: int | None, min_positives: int, seed: int
) -> list[Row]:
    """Draw a validation split from images that no other split uses.

    Args:
        pool: The unused images.
        names: The label names.
        size: Number of images, drawn so that each class keeps its share; None takes as few images as give each class
            `min_positives`, so that the rare ones are judged on as many images as the frequent ones.
        min_positives: Positives of each class, if `size` is None.
        seed: Of the drawing.

    Raises:
        ValueError: The pool is too small, or a class has too few images in it.
    """
    if size is not None and not 1 <= size <= len(pool):
        raise ValueError(f"validation_size must be 1 to {len(pool)}, the number of unused images, got {size}.")
    matrix = presence(pool, len(names))
    if size is None:
        scarce = [
            f"{name} {count}" for name, count in zip(names, matrix.sum(axis=0), strict=True) if count < min_positives
        ]
        if scarce:
            raise ValueError(
                f"the {len(pool)} unused images have fewer than {min_positives} positives of {', '.join(scarce)}; "
                "lower min_positives, or pass validation_size=...."
            )
        chosen = sample_covering(matrix, min_positives, seed)
    else:
        chosen = stratified_split(matrix, [size], seed)[0]
    return [pool[index] for index in chosen]


def split_by_group(
    rows: Sequence[Row], groups: Sequence[str], num_classes: int, shares: Sequence[float], seed: int
) -> list[list[Row]]:
    """Split rows by shares, stratified, with all rows of a group (a patient's images) in one subset.

    Args:
        rows: The images.
        groups: The group of each.
        num_classes: Number of labels.
        shares: Share of the groups that each subset gets; they sum to 1.
        seed: Of the drawing.

    Returns:
        The rows of each subset, in their old order.
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    of_row = np.array([numbers[group] for group in groups], dtype=np.int64)
    matrix = np.zeros((len(numbers), num_classes), dtype=np.int8)
    np.maximum.at(matrix, of_row, presence(rows, num_classes))
    subset_of = np.empty(len(numbers), dtype=np.int64)
    for subset, members in enumerate(stratified_split(matrix, list(shares), seed)):
        subset_of[members] = subset
    return [
        [row for row, group in zip(rows, of_row, strict=True) if subset_of[group] == subset]
        for subset in range(len(shares))
    ]


__all__ = [
    "Plan",
    "RecordBuilder",
    "RecordConfig",
    "Row",
    "draw_validation",
    "presence",
    "rows_from_labels",
    "split_by_group",
]
