# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe predict`: images to labels, on the screen or in a file."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from ._verbs import AddVerb


if TYPE_CHECKING:
    from ..inference import Predictor

_SHOWN = 5  # labels of an image on the screen
_ROWS = 1000  # rows of a table on the screen, so that it begins before the last image
_MAX_PIXELS = 89_478_485  # as modeling_cssfe.data.decoding.MAX_PIXELS, whose import takes seconds


class PredictionError(RuntimeError):
    """No image could be read; the message is one line and says why."""


def register(add: AddVerb) -> None:
    """Declare `cssfe predict`."""
    predict = add("predict", _predict, "Classify images.")
    predict.add_argument("model", help="folder or Hub repository of a trained model")
    predict.add_argument("images", nargs="+", help="image files, folders of images, or quoted patterns such as 'a/**'")
    predict.add_argument("--output", help="file for the scores, .parquet, .csv or .jsonl; None shows a table")
    again = predict.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="continue --output where an interrupted run stopped")
    again.add_argument("--overwrite", action="store_true", help="replace --output, and drop an interrupted run")
    predict.add_argument("--top_k", type=int, help=f"labels for each image; None: {_SHOWN} on screen, all in .jsonl")
    predict.add_argument("--json", action="store_true", help="print one JSON object a line")
    predict.add_argument("--batch_size", type=int, default=32, help="images a step")
    predict.add_argument("--num_workers", type=int, default=0, help="processes that read images")
    predict.add_argument("--device", help="such as cuda or cpu; None takes the GPU if there is one")
    predict.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no", help="of the model")
    predict.add_argument("--chunk_size", type=int, default=1000, help="images that an interruption of --output costs")
    predict.add_argument("--max_pixels", type=int, default=_MAX_PIXELS, help="largest width x height that is read")
    predict.add_argument(
        "--tta",
        nargs="+",
        choices=["none", "flip", "five_crop", "multi_scale"],
        default=["none"],
        help="test-time augmentation: scores are the mean over these views and the image itself",
    )
    predict.add_argument("--boxes", action="store_true", help="box labels above their threshold, from their maps")
    predict.add_argument("--box_threshold", default="otsu", help="otsu, or a share of the map's peak such as .5")


def _predict(options: argparse.Namespace) -> None:
    _check(options)
    from ..inference import Predictor, find_images

    images = find_images(options.images)
    predictor = Predictor.from_pretrained(
        options.model,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        device=options.device,
        tta=[name for name in options.tta if name != "none"],
        boxes=options.boxes,
        box_threshold=options.box_threshold,
        max_pixels=options.max_pixels,
        mixed_precision=options.mixed_precision,
    )
    if options.output is None:
        _show(predictor, images, options)
    else:
        _write(predictor, images, options)


def _check(options: argparse.Namespace) -> None:
    """Find mistakes before anything heavy is imported or loaded."""
    if options.top_k is not None and options.top_k < 1:
        raise ValueError(f"--top_k is {options.top_k}; give a number >= 1.")
    if options.chunk_size < 1:
        raise ValueError(f"--chunk_size is {options.chunk_size}; give a number >= 1.")
    if options.output is None and (options.resume or options.overwrite):
        raise ValueError("--resume and --overwrite are about --output; name a file.")
    if options.output is not None and options.json:
        raise ValueError("--json prints, --output writes; choose one (a .jsonl file has lines of JSON).")
    if "none" in options.tta and len(options.tta) > 1:
        raise ValueError(f"--tta is {' '.join(options.tta)}; give none alone, or leave it out.")
    if options.box_threshold != "otsu" and not options.boxes:
        raise ValueError("--box_threshold is about --boxes; give both.")
    from ..inference.boxes import check_box_threshold
    from ..inference.predictor import check_options

    check_box_threshold(options.box_threshold)
    check_options(options.batch_size, options.num_workers, options.max_pixels, options.mixed_precision)
    if options.output is not None:
        from ..inference.output import check_output

        check_output(options.output, resume=options.resume, overwrite=options.overwrite, top_k=options.top_k)


def _write(predictor: "Predictor", images: list[str], options: argparse.Namespace) -> None:
    from ..inference.output import predict_to_file

    report = predict_to_file(
        predictor,
        images,
        options.output,
        chunk_size=options.chunk_size,
        resume=options.resume,
        overwrite=options.overwrite,
        top_k=options.top_k,
        progress=True,
    )
    resumed = f" ({report.num_resumed:,} of them by an earlier run)" if report.num_resumed else ""
    print(f"{report.num_images:,} images{resumed} -> {options.output}")
    _report_failures(report.num_failed, report.num_images, report.failures, "; the column error has all of them")
    if report.num_failed == report.num_images:
        raise PredictionError(
            f"none of the {report.num_images:,} images can be read; the first: {report.failures[0][1]}"
        )


def _show(predictor: "Predictor", images: list[str], options: argparse.Namespace) -> None:
    from ..common.tables import show
    from ..data import ImageDecodingError
    from ..inference.rows import batch_entries

    table = None
    num_failed, failures = 0, []
    for batch in predictor.stream(images, progress=len(images) > predictor.batch_size):
        for entry in batch_entries(batch, predictor.label_names, predictor.thresholds, options.top_k or _SHOWN):
            if "error" in entry:
                num_failed += 1
                failures.append((entry["image"], entry["error"]))
                del failures[20:]
            if options.json:
                print(json.dumps(entry), flush=True)
            elif "error" not in entry:
                table = table or _table(predictor)
                _add_rows(table, entry, predictor)
        if table is not None and table.row_count >= _ROWS:
            show(table)
            table = None
    if table is not None:
        show(table)
    if num_failed == len(images):
        # On the screen the images are what the command was given, so this is a mistake in its arguments.
        some = f"none of the {len(images):,} images can be read; the first: " if len(images) > 1 else ""
        raise ImageDecodingError(some + failures[0][1])
    _report_failures(num_failed, len(images), failures, "")


def _table(predictor: "Predictor") -> Any:
    from ..common.tables import text_table

    columns = ["image", "label", "score", "above threshold"]
    columns += ["calibrated probability"] if predictor.config.calibration is not None else []
    columns += ["box"] if predictor.box_threshold is not None else []
    return text_table(None, *columns)


def _add_rows(table: Any, entry: dict[str, Any], predictor: "Predictor") -> None:
    for place, label in enumerate(entry["predictions"]):
        cells = [entry["image"] if place == 0 else "", label["label"], f"{label['score']:.4f}"]
        cells.append("yes" if label["above_threshold"] else "")
        if "probability" in label:
            cells.append(f"{label['probability']:.4f}")
        if predictor.box_threshold is not None:
            cells.append(", ".join(f"{corner:.0f}" for corner in label.get("box") or ()))
        table.add_row(*cells)
    table.add_section()


def _report_failures(count: int, total: int, failures: list[tuple[str, str]], where: str) -> None:
    if not count:
        return
    print(f"{count:,} of {total:,} images cannot be read{where}:", file=sys.stderr)
    for _, reason in failures:
        print(f"  {reason}", file=sys.stderr)
    if count > len(failures):
        print(f"  and {count - len(failures):,} more", file=sys.stderr)


__all__ = ["register"]
