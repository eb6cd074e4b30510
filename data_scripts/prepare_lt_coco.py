# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Prepare LT-COCO as Parquet files with a card, from the official downloads or from a folder that has them."""

import argparse
import sys
from collections.abc import Sequence

from modeling_cssfe.data.builders.lt_coco import LTCOCO
from modeling_cssfe.data.builders.preparation import PreparationParser, run_preparation
from modeling_cssfe.data.readers.coco import DIFFICULT_RULES


def build(options: argparse.Namespace) -> LTCOCO:
    return LTCOCO(
        coco_root=options.coco_root,
        lists=options.lists,
        difficult=options.difficult,
        validation_size=options.validation_size,
        min_positives=options.min_positives,
        on_contradiction=options.on_contradiction,
        seed=options.seed,
        verify_lists=not options.no_verify,
        verify_archives=not options.no_verify,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = PreparationParser(__doc__)
    parser.add_argument(
        "--coco_root", help="folder with train2017, val2017 and annotations, or the zip files; downloaded without it"
    )
    parser.add_argument("--lists", help="folder with coco_lt_train.txt and coco_lt_test.txt; downloaded without it")
    parser.add_argument("--difficult", choices=DIFFICULT_RULES, default="positive", help="what crowds say")
    parser.add_argument(
        "--validation_size", type=int, help="images; without it, few that cover every class with --min_positives"
    )
    parser.add_argument("--min_positives", type=int, default=20, help="validation images of each class")
    parser.add_argument(
        "--on_contradiction",
        choices=("error", "use_list"),
        default="error",
        help="where a list and the annotations disagree on an image: stop, or take the list's labels and say how many",
    )
    parser.add_argument("--no_verify", action="store_true", help="accept lists and archives of one's own")
    return run_preparation(parser, build, arguments)


if __name__ == "__main__":
    sys.exit(main())
