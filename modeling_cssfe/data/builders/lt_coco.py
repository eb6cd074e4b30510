# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""LT-COCO: 1,909 training images of COCO train2017 with a long tail, tested on val2017; 80 classes.

Source: T. Wu, Q. Huang, Z. Liu, Y. Wang, D. Lin, "Distribution-Balanced Loss for Multi-Label Classification in
Long-Tailed Datasets", ECCV 2020, section 4.1. The images are those of T.-Y. Lin et al., "Microsoft COCO: Common Objects
in Context", ECCV 2014.

    builder = LTCOCO()                        # downloads 20 GB, nearly all of it train2017.zip
    builder = LTCOCO(coco_root="/data/coco")  # folders train2017, val2017 and annotations, or the three zip files
    builder.download_and_prepare()
    dataset = builder.as_dataset()            # train, validation, test

| below `coco_root` | what for |
|---|---|
| `train2017` or `images/train2017`, else `train2017.zip` | train and validation |
| `val2017` or `images/val2017`, else `val2017.zip` | test |
| `annotations` (`instances_train2017.json`, `instances_val2017.json`), else `annotations_trainval2017.zip` | labels |

Only images of the splits go into the prepared set, with the bytes that the archives have; the archives are read where
they are and not unpacked.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets

from ..readers.coco import coco_categories, coco_labels, parse_coco
from ..readers.labels import RowLabels
from .archives import FileTree, JoinedTree
from .downloads import Part, open_part
from .lt_benchmark import Annotations, LTBenchmark, LTBenchmarkConfig
from .official_lists import COCO_NAMES, LT_COCO_LISTS, ListedImage


_PLACE = "http://images.cocodataset.org"
_MIRROR = "https://s3.amazonaws.com/images.cocodataset.org"


def _part(folder: str, archive: str, kind: str, md5: str) -> Part:
    folders = (folder,) if folder == "annotations" else (folder, f"images/{folder}")
    return Part(f"{folder}/", folders, archive, (f"{_PLACE}/{kind}/{archive}", f"{_MIRROR}/{kind}/{archive}"), md5)


# COCO publishes no checksums. These MD5 sums are the ones that public download scripts agree on.
COCO_PARTS = (
    _part("annotations", "annotations_trainval2017.zip", "annotations", "f4bbac642086de4f52a3fdda2de5fa2c"),
    _part("val2017", "val2017.zip", "zips", "442b8da7639aecaf257c1dceb8ba8c80"),
    _part("train2017", "train2017.zip", "zips", "cced6f7f71b7629ddf16f17bbcfab6b2"),
)
_TRAIN_SOURCE = "train2017"


@dataclass
class LTCOCOConfig(LTBenchmarkConfig):
    """Options of `LTCOCO`: those of `LTBenchmarkConfig`, and

    Attributes:
        coco_root: Folder with COCO 2017, unpacked or as zip files (see the module); None downloads them.
    """

    coco_root: str | None = None

    def source_files(self) -> list[Path]:
        """The lists, and the archives or the listings of the folders."""
        if self.coco_root is None:
            return super().source_files()
        root = Path(self.coco_root).expanduser()
        parts = [root / name for part in COCO_PARTS for name in (part.archive, *part.folders)]
        return [*super().source_files(), root, *parts, *sorted((root / "annotations").glob("instances_*2017.json"))]


class LTCOCO(LTBenchmark):
    """Builder of LT-COCO; takes the fields of `LTCOCOConfig` as arguments, and `cache_dir`.

    Validation comes from the images of train2017 that train does not use; none of them is in val2017, the test set.
    `instances_train2017.json`, 0.45 GB, is read as a whole and takes several times that memory for a moment.
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = LTCOCOConfig
    PRETTY_NAME = "LT-COCO"
    ABOUT = (
        "Long-tailed multi-label photographs: train from COCO train2017, test is val2017, by the lists of "
        "https://github.com/jiexuanyan/CPRFL; validation is drawn from images of train2017 that train leaves unused."
    )
    LICENSES = (
        "Annotations: CC BY 4.0 (https://cocodataset.org/#termsofuse). Images: from Flickr, each under the licence "
        "that its owner chose. Lists: published without a licence."
    )
    LISTS = LT_COCO_LISTS
    NAMES = COCO_NAMES

    def open_files(
        self, dl_manager: datasets.DownloadManager, lists: Mapping[str, list[ListedImage]]
    ) -> tuple[FileTree, dict[str, str]]:
        """Open annotations and the two folders of images; see `LTBenchmark.open_files`."""
        root = self.config.folder("coco_root")
        names = [image.name for images in lists.values() for image in images]
        trees, sources = {}, {}
        for part in COCO_PARTS:
            trees[part.prefix], where = open_part(
                part,
                root,
                dl_manager,
                root_option="coco_root",
                probe=next((name for name in names if name.startswith(part.prefix)), None),
                verify=self.config.verify_archives,
            )
            sources[part.prefix.rstrip("/")] = f"{where}; {part.urls[0]}"
        return JoinedTree(trees), sources

    def read_annotations(self, files: FileTree, listed: Iterable[str]) -> Annotations:
        """Read one JSON file a folder of images; see `LTBenchmark.read_annotations`."""
        names = list(listed)
        folders = dict.fromkeys([_TRAIN_SOURCE, *(name.split("/", 1)[0] for name in names)])
        labels: dict[str, RowLabels] = {}
        for folder in folders:
            labels.update(self._labels_of(files, folder))
        absent = [name for name in names if name not in labels]
        if absent:
            raise ValueError(
                f"the annotations lack {len(absent)} images of the lists, the first {absent[0]!r}; get the official "
                "annotations, or correct the list."
            )
        taken = set(names)
        return Annotations(
            {name: labels[name] for name in names},
            {
                name: found
                for name, found in labels.items()
                if name not in taken and name.startswith(f"{_TRAIN_SOURCE}/")
            },
        )

    def _labels_of(self, files: FileTree, folder: str) -> dict[str, RowLabels]:
        file = f"annotations/instances_{folder}.json"
        data = parse_coco(files.read(file), file)
        categories = coco_categories(data, file)
        if list(categories.values()) != list(self.NAMES):
            odd = sorted(set(categories.values()) ^ set(self.NAMES))
            raise ValueError(
                f"{file} has other categories than COCO 2017, or another order: {', '.join(odd[:5]) or 'the order'}; "
                "get the official annotations."
            )
        labels = coco_labels(data, categories, file, "unknown")
        try:
            return {f"{folder}/{image['file_name']}": labels[image["id"]] for image in data["images"]}
        except KeyError:
            raise ValueError(f"{file}: an image lacks 'file_name'; get the official annotations.") from None


__all__ = ["COCO_PARTS", "LTCOCO", "LTCOCOConfig"]
