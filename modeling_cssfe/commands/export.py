# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe export`: a trained model to ONNX or `torch.export`."""

import argparse

from ._verbs import AddVerb


FORMATS = ("onnx", "torch_export")


def register(add: AddVerb) -> None:
    """Declare `cssfe export`."""
    export = add("export", _export, "Write a model for other runtimes, checked against the original.")
    export.add_argument("model", help="folder or Hub repository of a trained model")
    export.add_argument("--format", choices=FORMATS, default="onnx", help="what is written")
    export.add_argument(
        "--output", help=".onnx or .pt2 file; by default in a folder of the format's name in the model's"
    )
    export.add_argument("--image_size", type=int, help="pixels of square images; by default the model's own size")
    export.add_argument("--opset", type=int, help="version of ONNX's operators; by default 20")
    export.add_argument(
        "--quantize",
        default="none",
        help="8-bit ONNX: none, dynamic (linear layers) or static (also convolutions; needs --calibration_data)",
    )
    export.add_argument("--calibration_data", help="data set whose (training) images give the ranges of static")
    export.add_argument("--calibration_images", type=int, default=128, help="images taken from it")


def _export(options: argparse.Namespace) -> None:

    from ..common.tables import show, text_table

    if options.format == "onnx":
        from ..export.onnx import DEFAULT_OPSET, export_onnx

        result = export_onnx(
            options.model,
            options.output,
            opset=DEFAULT_OPSET if options.opset is None else options.opset,
            image_size=options.image_size,
            quantize=options.quantize,
            calibration_data=options.calibration_data,
            calibration_images=options.calibration_images,
        )
    else:
        from ..export import export_torch

        for name, foreign in {
            "--opset": options.opset is not None,
            "--quantize": options.quantize != "none",
            "--calibration_data": options.calibration_data is not None,
        }.items():
            if foreign:
                raise ValueError(f"{name} is for --format onnx; leave it out with torch_export.")
        result = export_torch(options.model, options.output, image_size=options.image_size)
    table = text_table(None, "what", "value")
    for file in result.files:
        table.add_row("wrote", f"{file} ({file.stat().st_size / 1000:,.0f} kB)")
    table.add_row("image size", "any that the backbone takes" if result.dynamic_image_size else "fixed")
    for name, difference in result.differences.items():
        table.add_row(f"largest difference of {name}", f"{difference:.2g}")
    show(table)


__all__ = ["register"]
