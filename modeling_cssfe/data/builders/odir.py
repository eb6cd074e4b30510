# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""ODIR-5K: colour photographs of both eyes' fundus, with eight diagnoses of the patient.

Source: Peking University International Competition on Ocular Disease Intelligent Recognition (ODIR-2019). Its terms ask
users to register, so it is not downloaded here; the folder that a user has is read.

    builder = ODIR5K(root="/data/odir")
    builder.download_and_prepare()

| below `root` | what |
|---|---|
| `ODIR-5K_Training_Annotations(Updated)_V2.xlsx` or `.csv`, `data.xlsx` or `.csv`, `full_df.csv` | one row a patient \
with the columns `ID`, `Left-Fundus`, `Right-Fundus`, `N`, `D`, `G`, `C`, `A`, `H`, `M`, `O`; or, if there is a column \
`filename`, one row an image |
| `ODIR-5K_Training_Images`, `Training Images`, `images` or `preprocessed_images` | the images, `0_left.jpg` ... |

Both are looked for in the folder itself and in `ODIR-5K` and `ODIR-5K/ODIR-5K` below it, in this order; options name
others. Diagnoses are the patient's: a healthy eye whose fellow is ill has the label as well. No labelled test set is
published, so all three splits are drawn from the labelled images, stratified, both eyes of a patient in one split.
"""

from dataclasses import dataclass
from pathlib import Path

import datasets

from ..readers.labels import LabelOptions, parse_label_columns
from .archives import FolderTree
from .downloads import file_digest
from .record_builder import Plan, RecordBuilder, RecordConfig, rows_from_labels, split_by_group
from .spreadsheets import read_table, require_columns


# Column of the table -> label name.
ODIR_LABELS = {
    "N": "normal",
    "D": "diabetes",
    "G": "glaucoma",
    "C": "cataract",
    "A": "age-related macular degeneration",
    "H": "hypertension",
    "M": "pathological myopia",
    "O": "other diseases or abnormalities",
}
_PLACES = (".", "ODIR-5K", "ODIR-5K/ODIR-5K")
_TABLES = (
    "ODIR-5K_Training_Annotations(Updated)_V2.xlsx",
    "ODIR-5K_Training_Annotations(Updated)_V2.csv",
    "data.xlsx",
    "data.csv",
    "full_df.csv",
)
_IMAGES = ("ODIR-5K_Training_Images", "Training Images", "images", "preprocessed_images")


@dataclass
class ODIR5KConfig(RecordConfig):
    """Options of `ODIR5K`.

    Attributes:
        root: The user's folder.
        annotations: The table, relative to `root`; by default the first of those above that exists.
        images: The images' folder, relative to `root`; by default the first of those above that exists.
        validation_share: Share of the patients in validation, above 0.
        test_share: Share of the patients in test, above 0; both together below 1.
        seed: Of the split, >= 0.
    """

    root: str | None = None
    annotations: str | None = None
    images: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.2

    def __post_init__(self):
        """Check the values."""
        super().__post_init__()
        if min(self.validation_share, self.test_share) <= 0 or self.validation_share + self.test_share >= 1:
            raise ValueError(
                "validation_share and test_share must be above 0 and below 1 together, got "
                f"{self.validation_share} and {self.test_share}."
            )

    def find(self, asked: str | None, usual: tuple[str, ...], option: str) -> Path:
        """Return the file or folder that an option names, else the first usual one.

        Raises:
            FileNotFoundError: There is none.
        """
        root = self.user_root()
        tried = [asked] if asked is not None else [f"{place}/{name}" for place in _PLACES for name in usual]
        for name in tried:
            if (root / name).exists():
                return (root / name).resolve()
        what = f"no {asked!r}" if asked is not None else f"none of {', '.join(usual)}"
        raise FileNotFoundError(f"{root} has {what}; put it there, or name it with {option}=....")

    def source_files(self) -> list[Path]:
        """The table and the listing of the images."""
        found = []
        for asked, usual, option in (
            (self.annotations, _TABLES, "annotations"),
            (self.images, _IMAGES, "images"),
        ):
            try:
                found.append(self.find(asked, usual, option))
            except (ValueError, OSError):
                continue  # reported when the set is prepared
        return found


class ODIR5K(RecordBuilder):
    """Builder of ODIR-5K from a user's folder; takes the fields of `ODIR5KConfig` as arguments, and `cache_dir`."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = ODIR5KConfig
    PRETTY_NAME = "ODIR-5K"
    ABOUT = "Fundus photographs with the patient's diagnoses, split by patient."
    LICENSES = (
        "The terms of the competition ODIR-2019, https://odir2019.grand-challenge.org; do not pass the images on."
    )

    def label_names(self) -> list[str]:
        """Return the eight diagnoses."""
        return list(ODIR_LABELS.values())

    def make_plan(self, dl_manager: datasets.DownloadManager) -> Plan:
        """Read the table and split the patients."""
        config = self.config
        file = config.find(config.annotations, _TABLES, "annotations")
        folder = config.find(config.images, _IMAGES, "images")
        table = read_table(file)
        each_image = "filename" in table
        eyes = ("filename",) if each_image else ("Left-Fundus", "Right-Fundus")
        require_columns(table, ["ID", *eyes, *ODIR_LABELS], file)
        columns = {name: table[column] for column, name in ODIR_LABELS.items()}
        labels = parse_label_columns(columns, LabelOptions(), str(file))
        members, patients = [], []
        seen: dict[str, int] = {}
        for number, (patient, row) in enumerate(zip(table["ID"], labels, strict=True), start=2):
            for eye in eyes:
                name = table[eye][number - 2]
                if not name:
                    raise ValueError(f"{file}, row {number}: {eye!r} is empty; name the image or remove the row.")
                if name in seen:
                    raise ValueError(f"{file}, row {number}: the image {name!r} is in row {seen[name]} too; keep one.")
                seen[name] = number
                members.append((Path(name).stem, name, row))
                patients.append(patient)
        rows = rows_from_labels(members, self.label_names(), str(file))
        if any(row.unknown_labels for row in rows):
            raise ValueError(f"{file} has -1 among the labels; ODIR-5K knows only 1 and 0.")
        shares = (1 - config.validation_share - config.test_share, config.validation_share, config.test_share)
        parts = split_by_group(rows, patients, len(ODIR_LABELS), shares, config.seed)
        return Plan(
            FolderTree(folder),
            dict(zip(("train", "validation", "test"), parts, strict=True)),
            {file.name: f"sha256 {file_digest(file)}", "patients": str(len(set(patients)))},
        )


__all__ = ["ODIR5K", "ODIR_LABELS", "ODIR5KConfig"]
