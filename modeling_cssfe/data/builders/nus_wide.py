# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""NUS-WIDE: 269,648 Flickr images with 81 concepts.

Source: T.-S. Chua, J. Tang, R. Hong, H. Li, Z. Luo, Y. Zheng, "NUS-WIDE: A Real-World Web Image Database from National
University of Singapore", CIVR 2009. Its images may be used for research and not passed on, so it is not downloaded
here; the folder that a user has is read.

    builder = NUSWIDE(root="/data/nus-wide")
    builder.download_and_prepare()

| below `root` | what |
|---|---|
| `ConceptsList/Concepts81.txt` or `Concepts81.txt` | the concepts, one a line |
| `ImageList/Imagelist.txt`, `TrainImagelist.txt`, `TestImagelist.txt` | names, such as `actor\\0001_2124494179.jpg` |
| `Groundtruth/AllLabels/Labels_<concept>.txt` | 1 or 0 for each line of `Imagelist.txt` |
| `Flickr/<folder>/<name>`, else `images/<name>` or `images/<folder>/<name>` | the images |

`Groundtruth/TrainTestLabels` is not used: it says the same again. Train without validation, and test, are the official
lists; validation is drawn from train, stratified. The training set is long-tailed by itself; a steeper tail can be
drawn from it as from any data set.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets
import numpy as np

from ..readers.labels import check_label_names
from ..readers.records import folder_inside
from ..stratification import stratified_split
from .archives import FolderTree
from .downloads import file_digest
from .record_builder import Plan, RecordBuilder, RecordConfig, Row, presence


MISSING_RULES = ("error", "skip")


@dataclass
class NUSWIDEConfig(RecordConfig):
    """Options of `NUSWIDE`.

    Attributes:
        root: The user's folder.
        validation_share: Share of the training images that becomes validation, above 0 and below 1.
        missing_images: What becomes of listed images that the folder lacks: `"error"`, or `"skip"`, which leaves them
            out and says in the card how many. Copies that were fetched from Flickr lack those that were taken down.
        seed: Of the drawing of validation, >= 0.
    """

    root: str | None = None
    validation_share: float = 0.1
    missing_images: str = "error"

    def __post_init__(self):
        """Check the values."""
        super().__post_init__()
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share must be above 0 and below 1, got {self.validation_share}.")
        if self.missing_images not in MISSING_RULES:
            raise ValueError(f"missing_images must be one of {', '.join(MISSING_RULES)}, got {self.missing_images!r}.")

    def source_files(self) -> list[Path]:
        """Lists, labels and the listing of the images."""
        if self.root is None:
            return []
        root = Path(self.root).expanduser()
        lists = sorted((root / "ImageList").glob("*.txt"))
        labels = sorted((root / "Groundtruth" / "AllLabels").glob("*.txt"))
        return [*lists, *labels, *_concept_files(root), root / "Flickr", root / "images"]


class NUSWIDE(RecordBuilder):
    """Builder of NUS-WIDE from a user's folder; takes the fields of `NUSWIDEConfig` as arguments, and `cache_dir`."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = NUSWIDEConfig
    PRETTY_NAME = "NUS-WIDE"
    ABOUT = "Flickr images with 81 concepts; validation is drawn from the official training list."
    LICENSES = "Images: from Flickr, for research only; do not pass them on."

    def label_names(self) -> list[str]:
        """Return the concepts in the order of `Concepts81.txt`."""
        root = self.config.user_root()
        found = [file for file in _concept_files(root) if file.is_file()]
        if not found:
            raise FileNotFoundError(f"{root} has no ConceptsList/Concepts81.txt; download ConceptsList.zip into it.")
        return check_label_names(found[0].read_text(encoding="utf-8").split(), found[0].name)

    def make_plan(self, dl_manager: datasets.DownloadManager) -> Plan:
        """Read lists and labels, and draw validation from the training list."""
        config, root, names = self.config, self.config.user_root(), self.label_names()
        listed = _image_names(root, "Imagelist.txt")
        labels = _label_matrix(root, names, len(listed))
        position = {name: index for index, name in enumerate(listed)}
        if len(position) != len(listed):
            raise ValueError("Imagelist.txt names an image twice; download ImageList.zip again.")
        files, base = _image_folder(root, listed)
        rows: dict[str, list[Row]] = {}
        absent = 0
        for split, file in (("train", "TrainImagelist.txt"), ("test", "TestImagelist.txt")):
            rows[split] = []
            for name in _image_names(root, file):
                if name not in position:
                    raise ValueError(f"{file} names {name!r}, which Imagelist.txt lacks; download ImageList.zip again.")
                place = PurePosixPath(name).name if base == "flat" else name
                if config.missing_images == "skip" and place not in files:
                    absent += 1
                    continue
                has = np.flatnonzero(labels[:, position[name]]).tolist()
                rows[split].append(Row(str(PurePosixPath(name).with_suffix("")), place, has, []))
        train = rows["train"]
        shares = [1 - config.validation_share, config.validation_share]
        kept, drawn = stratified_split(presence(train, len(names)), shares, config.seed)
        rows["train"], rows["validation"] = [train[index] for index in kept], [train[index] for index in drawn]
        lists = [root / "ImageList" / name for name in ("TrainImagelist.txt", "TestImagelist.txt")]
        facts = {file.name: f"sha256 {file_digest(file)}" for file in lists}
        return Plan(files, rows, {**facts, "listed images that were missing and left out": str(absent)})


def _concept_files(root: Path) -> list[Path]:
    return [root / "ConceptsList" / "Concepts81.txt", root / "Concepts81.txt"]


def _image_names(root: Path, name: str) -> list[str]:
    file = root / "ImageList" / name
    if not file.is_file():
        raise FileNotFoundError(f"{root} has no ImageList/{name}; download ImageList.zip into it.")
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.strip().replace("\\", "/") for line in lines if line.strip()]


def _label_matrix(root: Path, names: list[str], images: int) -> np.ndarray:
    """Return `(concepts, images)` bool."""
    matrix = np.zeros((len(names), images), dtype=bool)
    for row, name in zip(matrix, names, strict=True):
        file = root / "Groundtruth" / "AllLabels" / f"Labels_{name}.txt"
        if not file.is_file():
            raise FileNotFoundError(
                f"{root} has no Groundtruth/AllLabels/{file.name}; download Groundtruth.zip into it."
            )
        cells = file.read_bytes().split()
        if len(cells) != images or not set(cells) <= {b"0", b"1"}:
            odd = sorted(set(cells) - {b"0", b"1"})[:1]
            raise ValueError(
                f"{file.name} must have 0 or 1 for each of the {images} images of Imagelist.txt, got {len(cells)} cells"
                f"{f', among them {ascii(odd[0])[1:]}' if odd else ''}; download Groundtruth.zip again."
            )
        row[:] = np.array(cells) == b"1"
    return matrix


def _image_folder(root: Path, listed: list[str]) -> tuple[FolderTree, str]:
    """Return the images' folder, and whether they lie in it by folder or flat; the layout that has most of a sample."""
    sample = listed[:: max(1, len(listed) // 100)]
    best: tuple[int, FolderTree, str] | None = None
    for name in ("Flickr", "images"):
        if not (root / name).is_dir():
            continue
        tree = FolderTree(folder_inside(root, root / name))
        for base in ("folders", "flat"):
            found = sum((PurePosixPath(path).name if base == "flat" else path) in tree for path in sample)
            if best is None or found > best[0]:
                best = (found, tree, base)
    if best is None:
        raise FileNotFoundError(f"{root} has neither a folder Flickr nor images; put the images there.")
    return best[1], best[2]


__all__ = ["MISSING_RULES", "NUSWIDE", "NUSWIDEConfig"]
