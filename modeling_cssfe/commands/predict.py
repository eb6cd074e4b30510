# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe predict`: images to labels."""

import argparse
import json

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe predict`."""
    predict = add("predict", _predict, "Classify images.")
    predict.add_argument("model", help="folder or Hub repository of a trained model")
    predict.add_argument("images", nargs="+", help="image files, or folders of images")
    predict.add_argument("--top_k", type=int, default=5, help="labels shown for each image")
    predict.add_argument("--json", action="store_true", help="print one JSON object a line")


def _predict(options: argparse.Namespace) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..predict import find_images, predict
    from ..training.report import show

    if options.top_k < 1:
        raise ValueError(f"--top_k is {options.top_k}; give a number >= 1.")
    columns = ["image", "label", "score", "above threshold"]
    table: Table | None = None
    for entry in predict(options.model, find_images(options.images), options.top_k):
        if options.json:
            print(json.dumps(entry), flush=True)
            continue
        calibrated = "probability" in entry["predictions"][0]
        if table is None:
            table = Table(*columns, *(["calibrated probability"] if calibrated else []))
        for place, label in enumerate(entry["predictions"]):
            cells = [escape(entry["image"]) if place == 0 else "", escape(label["label"]), f"{label['score']:.4f}"]
            cells.append("yes" if label["above_threshold"] else "")
            table.add_row(*cells, *([f"{label['probability']:.4f}"] if calibrated else []))
        table.add_section()
    if table is not None:
        show(table)


__all__ = ["register"]
