# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe data`: what a data set holds, and how it is prepared."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ._verbs import AddVerb


_DATA_OPTIONS = (
    *("label_names", "image_column", "id_column", "labels_column", "label_columns", "delimiter", "empty_cells"),
    *("difficult", "image_root", "config_name", "revision", "cache_dir"),
)


class InspectionError(RuntimeError):
    """The data were read, and something in them would stop training."""


def register(add: AddVerb) -> None:
    """Declare the actions of `cssfe data`."""
    inspect = add("data inspect", _inspect, "Show what a data set holds and what would go wrong in training.")
    inspect.add_argument("data", help="lt_digits, lt_voc, lt_coco, folder, file or `datasets` name")
    inspect.add_argument("--split", help="look at this split alone (default: all)")
    inspect.add_argument("--output", default="inspection.png", help="PNG or SVG file to draw")
    inspect.add_argument("--json", metavar="FILE", help="also write everything that was found as JSON")
    inspect.add_argument("--head_min", type=int, default=100, help="smallest count of a head class")
    inspect.add_argument("--tail_max", type=int, default=20, help="counts below it are tail")
    inspect.add_argument("--skip_images", action="store_true", help="look at labels only; images are not read")
    inspect.add_argument("--num_threads", type=int, default=min(8, os.cpu_count() or 1), help="images read at a time")
    add_data_options(inspect)


def add_data_options(parser: argparse.ArgumentParser, *, labels_only: bool = False) -> None:
    """Declare the options of `load_images`, each under its own name; `data_options` reads them.

    Args:
        parser: Gets the options.
        labels_only: Leave out `label_names`, `revision` and `cache_dir`, which mean something else where label names
            are all that is wanted.
    """
    group = parser.add_argument_group("how the data are read")
    if not labels_only:
        group.add_argument("--label_names", nargs="+", metavar="NAME", help="label names in the wanted order")
        group.add_argument("--revision", help="commit, tag or branch of a Hub data set")
        group.add_argument("--cache_dir", help="where `datasets` keeps converted files (default: its own cache)")
    group.add_argument("--image_column", help="column of images or file names")
    group.add_argument("--id_column", help="column of image ids")
    group.add_argument("--labels_column", help="column of label lists, or of names between delimiters")
    group.add_argument("--label_columns", nargs="+", metavar="COLUMN", help="columns of 1, 0 and -1, one a label")
    group.add_argument("--delimiter", help="between the names in a label cell (default: the one of | ; , that occurs)")
    group.add_argument(
        "--empty_cells",
        choices=("error", "unknown", "negative"),
        default="error",
        help="what a missing label cell means",
    )
    group.add_argument(
        "--difficult",
        choices=("positive", "ignore", "unknown"),
        default="positive",
        help="what VOC objects marked difficult and COCO crowds mean",
    )
    group.add_argument(
        "--image_root", help="folder of the images of COCO or YOLO data, or of lt_voc's or lt_coco's downloads"
    )
    group.add_argument("--config_name", help="configuration of a Hub data set")


def data_options(options: argparse.Namespace, *, labels_only: bool = False) -> dict[str, Any]:
    """Return the keyword arguments for `load_images` that `add_data_options` declared."""
    other = ("label_names", "revision", "cache_dir") if labels_only else ()
    return {name: getattr(options, name) for name in _DATA_OPTIONS if name not in other}


def _inspect(options: argparse.Namespace) -> None:
    from ..common.files import write_whole
    from ..common.tables import show
    from ..data import load_images
    from ..data.inspection.inspect import inspect_images
    from ..data.inspection.plots import check_picture_path, draw_inspection
    from ..data.inspection.tables import inspection_tables

    check_picture_path(options.output)
    inspection = inspect_images(
        load_images(options.data, **data_options(options)),
        split=options.split,
        head_min=options.head_min,
        tail_max=options.tail_max,
        read_images=not options.skip_images,
        num_threads=options.num_threads,
    )
    show(*inspection_tables(inspection, options.data))
    draw_inspection(inspection, options.output)
    written = [options.output]
    if options.json:
        text = json.dumps({"data": options.data, **inspection.to_dict()}, indent=2, ensure_ascii=False) + "\n"
        write_whole(Path(options.json), lambda temporary: temporary.write_text(text, encoding="utf-8"))
        written.append(options.json)
    print(f"written: {', '.join(written)}")
    if inspection.errors:
        raise InspectionError(
            f"{options.data} has {len(inspection.errors)} of the findings above that would stop training (error: "
            f"{', '.join(finding.kind for finding in inspection.errors)}); mend them first."
        )


__all__ = ["InspectionError", "add_data_options", "data_options", "register"]
