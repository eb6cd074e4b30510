# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Prepare ODIR-5K, NUS-WIDE or a CXR-LT-like set as Parquet files with a card, from the folder that a user has."""

import argparse
import sys
from collections.abc import Sequence

from modeling_cssfe.data.builders.cxr_lt import CXRLT
from modeling_cssfe.data.builders.nus_wide import MISSING_RULES, NUSWIDE
from modeling_cssfe.data.builders.odir import ODIR5K
from modeling_cssfe.data.builders.preparation import PreparationParser, run_preparation
from modeling_cssfe.data.readers.labels import EMPTY_CELL_RULES


BUILDERS = {"odir": ODIR5K, "nus_wide": NUSWIDE, "cxr_lt": CXRLT}
# The options of each set; the modules say what they mean, and which files are expected.
SHARES = ("validation_share",)
OPTIONS = {
    "odir": (*SHARES, "test_share", "annotations", "images"),
    "nus_wide": (*SHARES, "missing_images"),
    "cxr_lt": (
        *SHARES, "train", "validation", "test", "images", "image_pattern", "label_columns", "id_column", "path_column",
        "patient_column", "empty_cells",
    ),
}  # fmt: skip


def build(options: argparse.Namespace) -> ODIR5K | NUSWIDE | CXRLT:
    given = {name: value for name, value in vars(options).items() if value is not None}
    common = {name: given.pop(name) for name in ("root", "seed")}
    for name in ("set", "output_dir", "debug"):
        given.pop(name, None)
    wrong = sorted(set(given) - set(OPTIONS[options.set]))
    if wrong:
        raise ValueError(f"{options.set} has no option --{wrong[0]}; it has {', '.join(OPTIONS[options.set])}.")
    return BUILDERS[options.set](**common, **given)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = PreparationParser(__doc__)
    parser.add_argument("set", choices=BUILDERS, help="which set")
    parser.add_argument("--root", required=True, help="the folder that holds it")
    parser.add_argument("--validation_share", type=float, help="of images or patients; .1 by default")
    parser.add_argument("--test_share", type=float, help="of patients (odir); .2 by default")
    parser.add_argument("--annotations", help="table, below root (odir)")
    parser.add_argument("--images", help="folder of the images, below root (odir, cxr_lt)")
    parser.add_argument("--missing_images", choices=MISSING_RULES, help="listed but not there (nus_wide)")
    for split in ("train", "validation", "test"):
        parser.add_argument(f"--{split}", help=f"CSV of {split}, below root (cxr_lt)")
    parser.add_argument("--image_pattern", help="path of an image, columns in braces (cxr_lt)")
    parser.add_argument("--label_columns", nargs="+", metavar="NAME", help="the labels (cxr_lt)")
    for name in ("id", "path", "patient"):
        parser.add_argument(f"--{name}_column", help=f"column of the {name} (cxr_lt)")
    parser.add_argument("--empty_cells", choices=EMPTY_CELL_RULES, help="what an empty label cell means (cxr_lt)")
    return run_preparation(parser, build, arguments)


if __name__ == "__main__":
    sys.exit(main())
