# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""LT-VOC: 1,142 training images of PASCAL VOC2012 with a long tail, tested on VOC2007 test; 20 classes.

Source: T. Wu, Q. Huang, Z. Liu, Y. Wang, D. Lin, "Distribution-Balanced Loss for Multi-Label Classification in
Long-Tailed Datasets", ECCV 2020, section 4.1. The images are those of M. Everingham et al., "The PASCAL Visual Object
Classes Challenge", IJCV 2010.

    builder = LTVOC()                       # downloads 2.4 GB
    builder = LTVOC(voc_root="/data/voc")   # VOCdevkit, unpacked, or the two tar files
    builder.download_and_prepare()
    dataset = builder.as_dataset()          # train, validation, test

| below `voc_root` | what for |
|---|---|
| `VOCdevkit/VOC2012` or `VOC2012`, else `VOCtrainval_11-May-2012.tar` | train and validation |
| `VOCdevkit/VOC2007` or `VOC2007`, else `VOCtest_06-Nov-2007.tar` | test; VOC2007 trainval is not needed |

Only images of the splits go into the prepared set, with the bytes that the archives have.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import datasets

from ..readers.labels import RowLabels
from ..readers.voc import voc_objects
from .archives import FileTree, JoinedTree
from .downloads import Part, open_part
from .lt_benchmark import Annotations, LTBenchmark, LTBenchmarkConfig
from .official_lists import LT_VOC_LISTS, VOC_NAMES, ListedImage


# The MD5 sums are those that torchvision checks (torchvision/datasets/voc.py), whose mirror stands second.
VOC_PARTS = (
    Part(
        "VOCdevkit/VOC2012/",
        ("VOCdevkit/VOC2012", "VOC2012"),
        "VOCtrainval_11-May-2012.tar",
        (
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        ),
        "6cd6e144f989b92b3379bac3b3de84fd",
    ),
    Part(
        "VOCdevkit/VOC2007/",
        ("VOCdevkit/VOC2007", "VOC2007"),
        "VOCtest_06-Nov-2007.tar",
        (
            "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
            "https://thor.robots.ox.ac.uk/pascal/VOC/voc2007/VOCtest_06-Nov-2007.tar",
        ),
        "b6e924de25625d8de591ea690078ad9f",
    ),
)
_TRAIN_SOURCE = "VOCdevkit/VOC2012"


@dataclass
class LTVOCConfig(LTBenchmarkConfig):
    """Options of `LTVOC`: those of `LTBenchmarkConfig`, and

    Attributes:
        voc_root: Folder with the devkits, unpacked or as tar files (see the module); None downloads them.
    """

    voc_root: str | None = None

    def source_files(self) -> list[Path]:
        """The lists, and the archives, or the devkits' annotations, lists and listings of images."""
        if self.voc_root is None:
            return super().source_files()
        root = Path(self.voc_root).expanduser()
        parts = [root / name for part in VOC_PARTS for name in (part.archive, *part.folders)]
        inner = [part / name for part in parts for name in ("JPEGImages", "ImageSets/Main/trainval.txt")]
        # Each one, as a label that is corrected in place changes no listing.
        annotations = [file for part in parts for file in sorted((part / "Annotations").glob("*.xml"))]
        return [*super().source_files(), root, *parts, *inner, *annotations]


class LTVOC(LTBenchmark):
    """Builder of LT-VOC; takes the fields of `LTVOCConfig` as arguments, and `cache_dir`.

    Validation comes from the images of VOC2012's `ImageSets/Main/trainval.txt` that train does not use. That list
    holds photographs of 2008 to 2011, so none of VOC2007 test. (VOC2012's folder of images does hold some of VOC2007,
    for segmentation, with ids that begin with 2007; these are left out even if the list names them.)
    """

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = LTVOCConfig
    PRETTY_NAME = "LT-VOC"
    ABOUT = (
        "Long-tailed multi-label photographs: train from PASCAL VOC2012 trainval, test is VOC2007 test, by the lists "
        "of https://github.com/jiexuanyan/CPRFL; validation is drawn from images of VOC2012 trainval that train leaves "
        "unused."
    )
    LICENSES = (
        "Images: from Flickr, under its terms of use (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/index.html#rights)"
        ". Lists: published without a licence."
    )
    LISTS = LT_VOC_LISTS
    NAMES = VOC_NAMES

    def open_files(
        self, dl_manager: datasets.DownloadManager, lists: Mapping[str, list[ListedImage]]
    ) -> tuple[FileTree, dict[str, str]]:
        """Open the two devkits; see `LTBenchmark.open_files`."""
        root = self.config.folder("voc_root")
        names = [image.name for images in lists.values() for image in images]
        trees, sources = {}, {}
        for part in VOC_PARTS:
            trees[part.prefix], where = open_part(
                part,
                root,
                dl_manager,
                root_option="voc_root",
                probe=next((name for name in names if name.startswith(part.prefix)), None),
                verify=self.config.verify_archives,
            )
            sources[part.prefix.rstrip("/")] = f"{where}; {part.urls[0]}"
        return JoinedTree(trees), sources

    def read_annotations(self, files: FileTree, listed: Iterable[str]) -> Annotations:
        """Read one XML file an image; see `LTBenchmark.read_annotations`."""
        from tqdm import tqdm

        names = list(listed)
        taken = set(names)
        stems = files.read(f"{_TRAIN_SOURCE}/ImageSets/Main/trainval.txt").decode("utf-8").split()
        source = [f"{_TRAIN_SOURCE}/JPEGImages/{stem}.jpg" for stem in stems if not stem.startswith("2007")]
        unused = [name for name in dict.fromkeys(source) if name not in taken]
        labels: dict[str, RowLabels] = {}
        for name in tqdm([*names, *unused], desc="reading annotations", unit="file", mininterval=1.0):
            path = PurePosixPath(name)
            if path.parent.name != "JPEGImages" or len(path.parts) < 3:
                raise ValueError(
                    f"the list names {name!r}; VOC images are called VOCdevkit/VOC<year>/JPEGImages/<id>.jpg."
                )
            annotation = str(path.parent.parent / "Annotations" / f"{path.stem}.xml")
            labels[name] = voc_objects(files.read(annotation), annotation, "unknown", self.NAMES)
        return Annotations({name: labels[name] for name in names}, {name: labels[name] for name in unused})


__all__ = ["LTVOC", "VOC_PARTS", "LTVOCConfig"]
