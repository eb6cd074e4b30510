# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""CXR-LT and sets like it: chest X-rays with one CSV a split, and one column a label in it.

Source: G. Holste et al., "Towards long-tailed, multi-label disease classification from chest X-ray: Overview of the
CXR-LT challenge", Medical Image Analysis 2024. Labels come from PhysioNet under credentialed access, images from
MIMIC-CXR-JPG under the same, so nothing is downloaded here; the folder that a user has is read.

    builder = CXRLT(root="/data/cxr-lt", train="train.csv", test="test.csv")
    builder.download_and_prepare()

| below `root` | what |
|---|---|
| `train.csv`, and others that the options name | one row an image: an id (`dicom_id`, `image_id` or `id`), perhaps a \
path (`fpath`, `path` or `filename`), a patient (`subject_id` or `patient_id`), and one column a label |
| the images | at the path that the CSV gives, or where `image_pattern` says; below `images` if that is given |

A label is 1, 0 or -1 (unknown); an empty cell is an error unless `empty_cells` says what it means. Any number of labels
will do. Labels are all columns but those above and MIMIC's metadata (`METADATA_COLUMNS`); a further column that holds
other values is an error, and `label_columns` then names the labels. All splits must have the same labels.

The prepared set holds the images' bytes: shrink the X-rays first, or it will be as large as they are (hundreds of
gigabytes for MIMIC-CXR-JPG). Only headers are checked; `cssfe data inspect` reads every pixel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets

from ..readers.labels import EMPTY_CELL_RULES, LabelOptions, RowLabels, pick_labels
from ..readers.records import path_inside
from .archives import FolderTree
from .downloads import file_digest
from .record_builder import Plan, RecordBuilder, RecordConfig, rows_from_labels, split_by_group
from .spreadsheets import first_column, read_table


ID_COLUMNS = ("dicom_id", "image_id", "id")
PATH_COLUMNS = ("fpath", "path", "filename")
PATIENT_COLUMNS = ("subject_id", "patient_id")
METADATA_COLUMNS = frozenset(
    (
        *ID_COLUMNS, *PATH_COLUMNS, *PATIENT_COLUMNS, "study_id", "split", "PerformedProcedureStepDescription",
        "ViewPosition", "Rows", "Columns", "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning",
        "ViewCodeSequence_CodeMeaning", "PatientOrientationCodeSequence_CodeMeaning",
    )
)  # fmt: skip


@dataclass
class CXRLTConfig(RecordConfig):
    """Options of `CXRLT`.

    Attributes:
        root: The user's folder.
        train: The training CSV, relative to `root`.
        validation: The validation CSV; None draws it from train, all images of a patient in one split.
        test: The test CSV; None makes no test split.
        images: Folder of the images, relative to `root`.
        image_pattern: An image's path if there is no path column, made of columns: `"{dicom_id}.jpg"`, or for
            MIMIC-CXR-JPG `"files/p{subject_id:.2}/p{subject_id}/s{study_id}/{dicom_id}.jpg"`. By default the id and
            `.jpg`.
        label_columns: The labels and their order; by default see the module.
        id_column: By default the first of `ID_COLUMNS` that is there.
        path_column: By default the first of `PATH_COLUMNS` that is there, unless a pattern is given.
        patient_column: By default the first of `PATIENT_COLUMNS` that is there; without one every image is a patient.
        empty_cells: What an empty label cell means: `"error"`, `"unknown"` or `"negative"`.
        validation_share: Share of the patients of train that becomes validation, above 0 and below 1, if no file is
            given.
        seed: Of that split, >= 0.
    """

    root: str | None = None
    train: str = "train.csv"
    validation: str | None = None
    test: str | None = None
    images: str = "."
    image_pattern: str | None = None
    label_columns: Sequence[str] | None = None
    id_column: str | None = None
    path_column: str | None = None
    patient_column: str | None = None
    empty_cells: str = "error"
    validation_share: float = 0.1

    def __post_init__(self):
        """Check the values."""
        super().__post_init__()
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be above 0 and below 1, got {self.validation_share}.")
        if self.empty_cells not in EMPTY_CELL_RULES:
            raise ValueError(f"empty_cells must be one of {', '.join(EMPTY_CELL_RULES)}, got {self.empty_cells!r}.")
        if self.path_column is not None and self.image_pattern is not None:
            raise ValueError("path_column and image_pattern exclude each other; pass the one that the images follow.")

    def tables(self) -> dict[str, Path]:
        """Return the CSV of each split."""
        root = self.user_root()
        given = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: path_inside(root, name, split) for split, name in given.items() if name is not None}

    def source_files(self) -> list[Path]:
        """The CSV files and the listing of the images."""
        try:
            return [*self.tables().values(), self.user_root() / self.images]
        except (ValueError, OSError):
            return []  # reported when the set is prepared


class CXRLT(RecordBuilder):
    """Builder of CXR-LT-like sets; takes the fields of `CXRLTConfig` as arguments, and `cache_dir`."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = CXRLTConfig
    PRETTY_NAME = "CXR-LT"
    ABOUT = "Chest X-rays with one column a label, from the CSV files of a user."
    LICENSES = "The terms under which the labels and images were obtained (PhysioNet); do not pass them on."

    def _read(self) -> tuple[list[str], dict[str, dict[str, list[str]]], dict[str, list[RowLabels]]]:
        """Return label names, tables and labels, read once."""
        if not hasattr(self, "_found"):
            config, names = self.config, None
            tables, labels = {}, {}
            for split, file in config.tables().items():
                tables[split] = table = read_table(file)
                chosen = tuple(config.label_columns) if config.label_columns is not None else None
                asked = {config.id_column, config.path_column, config.patient_column}
                apart = METADATA_COLUMNS | asked if chosen is None else frozenset()
                own = {name: cells for name, cells in table.items() if name not in apart}
                labels[split], found = pick_labels(
                    own, LabelOptions(label_columns=chosen or tuple(own), empty_cells=config.empty_cells), str(file)
                )
                if names is not None and found != names:
                    odd = ", ".join(sorted(set(names) ^ set(found or ()))[:5]) or "the order"
                    raise ValueError(
                        f"{file} has other labels than {config.train}, or another order: {odd}; "
                        "give all files the same columns, or pass label_columns=[...]."
                    )
                names = found
            self._found = (list(names or ()), tables, labels)
        return self._found

    def label_names(self) -> list[str]:
        """Return the label columns of the training file."""
        return self._read()[0]

    def has_unknown(self) -> bool:
        """Whether any label is unknown."""
        return any(row.unknown for rows in self._read()[2].values() for row in rows)

    def make_plan(self, dl_manager: datasets.DownloadManager) -> Plan:
        """Find the images, and draw validation from train if no file has it."""
        config = self.config
        names, tables, labels = self._read()
        rows, patients = {}, {}
        for split, file in config.tables().items():
            table = tables[split]
            ids = first_column(table, config.id_column, ID_COLUMNS, file)
            if ids is None:
                raise ValueError(f"{file} has none of the id columns {', '.join(ID_COLUMNS)}; pass id_column=....")
            members, seen = [], set()
            for image_id, path, row in zip(table[ids], self._paths(table, ids, file), labels[split], strict=True):
                if not image_id or image_id in seen:
                    raise ValueError(f"{file}: the id {image_id!r} is empty or there twice; give every image its own.")
                seen.add(image_id)
                members.append((image_id, path, row))
            rows[split] = rows_from_labels(members, names, str(file))
            patient = first_column(table, config.patient_column, PATIENT_COLUMNS, file)
            patients[split] = table[patient or ids]
        if "validation" not in rows:
            shares = (1 - config.validation_share, config.validation_share)
            rows["train"], rows["validation"] = split_by_group(
                rows["train"], patients["train"], len(names), shares, config.seed
            )
        facts = {file.name: f"sha256 {file_digest(file)}" for file in config.tables().values()}
        folder = (config.user_root() / config.images).resolve()
        if not folder.is_dir():
            raise FileNotFoundError(f"images is {config.images!r}, which is no folder of {config.user_root()}.")
        return Plan(FolderTree(folder), rows, facts)

    def _paths(self, table: dict[str, list[str]], ids: str, file: Path) -> list[str]:
        config = self.config
        column = None
        if config.image_pattern is None:
            column = first_column(table, config.path_column, PATH_COLUMNS, file)
        if column is not None:
            return [PurePosixPath(path).as_posix() for path in table[column]]
        pattern = config.image_pattern or f"{{{ids}}}.jpg"
        try:
            return [
                pattern.format_map(dict(zip(table, cells, strict=True))) for cells in zip(*table.values(), strict=True)
            ]
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(
                f"image_pattern {pattern!r} does not fit {file}: {error}; name its columns in braces."
            ) from None


__all__ = ["CXRLT", "METADATA_COLUMNS", "CXRLTConfig"]
