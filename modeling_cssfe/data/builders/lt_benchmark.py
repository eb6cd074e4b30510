# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What LT-VOC and LT-COCO share: published lists, proof that all of it is right, and a validation split of their own.

Train and test are the published lists. The lists' labels are compared with the annotations of every listed image,
whatever becomes of difficult objects, and their class counts with the known ones. No validation split is published;
here it is drawn from the images of train's own source that train does not use, never from test.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import datasets

from ..readers.coco import DIFFICULT_RULES
from ..readers.labels import RowLabels
from .archives import FileTree
from .official_lists import ListedImage, OfficialList, load_lists
from .record_builder import Plan, RecordBuilder, RecordConfig, Row, draw_validation


logger = logging.getLogger(__name__)


@dataclass
class LTBenchmarkConfig(RecordConfig):
    """Options of `LTVOC` and `LTCOCO`.

    Attributes:
        lists: Folder of the two lists, under their published names; None downloads them.
        difficult: What VOC objects marked difficult, or COCO crowds, say: `"positive"` (the class is present, as in the
            published lists), `"ignore"` (nothing), or `"unknown"`. The latter two change the class counts.
        validation_size: Images of the validation split, each class with its share; None takes as few images as give
            every class `min_positives`.
        min_positives: Positives of each class in validation, >= 1, unless a size is given. 20 by default: with
            fewer, one image that changes places moves a class's average precision by more than about 1/20.
        on_contradiction: What happens where a list and the annotations disagree on an image: `"error"`, or
            `"use_list"`, which takes the list's labels for that image and warns with the number of such images.
        seed: Of the drawing of the validation split, >= 0.
        verify_lists: Whether the lists must be the published ones, by sha256. False is for lists of one's own.
        verify_archives: Whether archives must be the published ones, by MD5.
        expected_counts: Images of each class that `train` and `test` must have; by default the known ones if
            `verify_lists`, and no check otherwise.
    """

    lists: str | None = None
    difficult: str = "positive"
    validation_size: int | None = None
    min_positives: int = 20
    on_contradiction: str = "error"
    verify_lists: bool = True
    verify_archives: bool = True
    expected_counts: Mapping[str, Sequence[int]] | None = None

    def __post_init__(self):
        """Check the values."""
        super().__post_init__()
        if self.difficult not in DIFFICULT_RULES:
            raise ValueError(f"difficult must be one of {', '.join(DIFFICULT_RULES)}, got {self.difficult!r}.")
        if self.on_contradiction not in ("error", "use_list"):
            raise ValueError(f"on_contradiction must be 'error' or 'use_list', got {self.on_contradiction!r}.")
        if self.validation_size is not None and self.validation_size < 1:
            raise ValueError(f"validation_size must be >= 1 or None, got {self.validation_size}.")
        if self.min_positives < 1:
            raise ValueError(f"min_positives must be >= 1, got {self.min_positives}.")

    def source_files(self) -> list[Path]:
        """The lists; see `RecordConfig.source_files`."""
        return sorted(Path(self.lists).expanduser().glob("*.txt")) if self.lists is not None else []


class Annotations(NamedTuple):
    """What the annotations say, with difficult objects as unknown.

    Attributes:
        listed: Labels of every image of the lists, by name.
        unused: Names of the other images of train's source.
        labels: Labels of those.
    """

    listed: Mapping[str, RowLabels]
    unused: Mapping[str, RowLabels]


class LTBenchmark(RecordBuilder):
    """Base of `LTVOC` and `LTCOCO`.

    Attributes:
        LISTS: The published lists.
        NAMES: The label names.
    """

    BUILDER_CONFIG_CLASS = LTBenchmarkConfig
    DECODES = True
    LISTS: Mapping[str, OfficialList] = {}
    NAMES: Sequence[str] = ()

    def label_names(self) -> Sequence[str]:
        """Return the label names."""
        return self.NAMES

    def has_unknown(self) -> bool:
        """Whether difficult objects are unknown labels."""
        return self.config.difficult == "unknown"

    def open_files(
        self, dl_manager: datasets.DownloadManager, lists: Mapping[str, list[ListedImage]]
    ) -> tuple[FileTree, dict[str, str]]:
        """Open images and annotations; return them, and where each part comes from."""
        raise NotImplementedError

    def read_annotations(self, files: FileTree, listed: Iterable[str]) -> Annotations:
        """Read the annotations of the listed images, and of the images of train's source that are not."""
        raise NotImplementedError

    def make_plan(self, dl_manager: datasets.DownloadManager) -> Plan:
        """Read lists and annotations, compare them, and draw the validation split."""
        config = self.config
        lists, digests = load_lists(
            self.LISTS,
            self.NAMES,
            config.folder("lists"),
            dl_manager,
            verify=config.verify_lists,
            expected_counts=config.expected_counts,
        )
        files, sources = self.open_files(dl_manager, lists)
        sources.update({file: f"sha256 {digest}" for file, digest in digests.items()})
        annotations = self.read_annotations(files, [image.name for images in lists.values() for image in images])
        settled = dict(annotations.listed)
        for split, images in lists.items():
            settled |= self._compare(images, annotations.listed, self.LISTS[split].file)
        rows = {
            split: [self._row(image.name, settled[image.name]) for image in images] for split, images in lists.items()
        }
        unused = [self._row(name, labels) for name, labels in annotations.unused.items()]
        rows["validation"] = draw_validation(
            unused, self.NAMES, config.validation_size, config.min_positives, config.seed
        )
        return Plan(files, rows, sources)

    def _compare(
        self, images: Sequence[ListedImage], annotated: Mapping[str, RowLabels], where: str
    ) -> dict[str, RowLabels]:
        """Compare a list's labels with the annotations', in which every object counts.

        Returns:
            The list's labels of the images on which the two disagree, if these are to be used.
        """
        differing = []
        for image in images:
            said = {self.NAMES[label] for label in image.labels}
            seen = {*annotated[image.name].present, *annotated[image.name].unknown}
            if said != seen:
                differing.append((image.name, sorted(said - seen), sorted(seen - said)))
        if differing:
            name, only_list, only_annotation = differing[0]
            message = (
                f"{where} contradicts the annotations of {len(differing)} of its images, first of {name!r}: only the "
                f"list has {', '.join(only_list) or 'nothing'}, only the annotation has "
                f"{', '.join(only_annotation) or 'nothing'}"
            )
            if self.config.on_contradiction == "error":
                raise ValueError(
                    f"{message}; get the official annotations, correct the list, or pass on_contradiction='use_list'."
                )
            logger.warning("%s; the list's labels are used for them.", message)
        wrong = {name for name, _, _ in differing}
        return {
            image.name: RowLabels(tuple(sorted(self.NAMES[label] for label in image.labels)), ())
            for image in images
            if image.name in wrong
        }

    def _row(self, name: str, labels: RowLabels) -> Row:
        difficult = self.config.difficult
        position = {label: index for index, label in enumerate(self.NAMES)}
        present = {*labels.present, *(labels.unknown if difficult == "positive" else ())}
        unknown = labels.unknown if difficult == "unknown" else ()
        return Row(
            PurePosixPath(name).stem,
            name,
            sorted(position[label] for label in present),
            sorted(position[label] for label in unknown),
        )


__all__ = ["Annotations", "LTBenchmark", "LTBenchmarkConfig"]
