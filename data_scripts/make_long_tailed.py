# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Draw a long-tailed training set from any multi-label image set; the rest becomes validation and test."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from modeling_cssfe.commands.data import add_data_options, data_options
from modeling_cssfe.data import load_images
from modeling_cssfe.data.builders.preparation import PreparationParser, run_script
from modeling_cssfe.data.long_tail.drawing import METHODS
from modeling_cssfe.data.long_tail.make import ORDERS, PROFILES, UNLABELED_RULES, make_long_tailed


def build_parser() -> PreparationParser:
    parser = PreparationParser(__doc__)
    parser.add_argument("--data", required=True, help="data set to draw from: anything that `load_images` takes")
    parser.add_argument("--split", help="split to draw from, or 'all'; needed if there are several")
    parser.add_argument("--profile", choices=PROFILES, default="pareto", help="how counts fall from class to class")
    parser.add_argument("--max_count", type=int, help="wanted images of the most frequent class")
    parser.add_argument("--min_count", type=int, default=1, help="the profile's smallest count")
    parser.add_argument("--counts", metavar="FILE.json", help="wanted images by class name, instead of a profile")
    parser.add_argument("--order", choices=ORDERS, default="cooccurrence", help="which classes are frequent")
    parser.add_argument("--num_validation", type=int, help="images; without it, half of the rest, or all but the test")
    parser.add_argument("--num_test", type=int, help="images; without it, all that validation leaves")
    parser.add_argument("--unlabeled", choices=UNLABELED_RULES, default="rest", help="what becomes of unlabeled images")
    parser.add_argument("--method", choices=METHODS, default="auto", help="how images are chosen")
    parser.add_argument("--time_limit", type=float, default=60.0, help="seconds for each step of the exact method")
    add_data_options(parser)
    return parser


def run(options) -> None:
    if Path(options.output_dir).expanduser().exists():  # also checked at the end, but known now
        raise FileExistsError(f"{options.output_dir!r} exists; remove it, or name another folder.")
    draw = make_long_tailed(
        load_images(options.data, **data_options(options)),
        profile=options.profile,
        max_count=options.max_count,
        min_count=options.min_count,
        counts=None if options.counts is None else read_counts(Path(options.counts)),
        order=options.order,
        num_validation=options.num_validation,
        num_test=options.num_test,
        unlabeled=options.unlabeled,
        split=options.split,
        seed=options.seed,
        method=options.method,
        time_limit=options.time_limit,
    )
    draw.save(options.output_dir)

    from modeling_cssfe.common.tables import show

    show(draw.table())
    print(f"{draw.method}, {draw.status}; deviation {draw.deviation:.4g} (sum of |reached - target| / target)")
    print(
        f"{options.output_dir}: " + ", ".join(f"{len(rows)} {name}" for name, rows in draw.dataset.items()) + " images"
    )


def read_counts(file: Path):
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of counts {str(file)!r}; check the path.")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f'{file} is no JSON ({error}); write {{"class name": images, ...}}.') from None


def main(arguments: Sequence[str] | None = None) -> int:
    return run_script(build_parser(), run, arguments)


if __name__ == "__main__":
    sys.exit(main())
