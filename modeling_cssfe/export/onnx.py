# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A trained model to ONNX, in fp32 or with 8-bit weights, checked through onnxruntime."""

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..common.files import write_whole
from .description import describe_export
from .torch_export import (
    ExportError,
    ExportResult,
    TracedModel,
    check_export,
    compare_outputs,
    first_line,
    load_for_export,
    quiet,
    write_description,
)


QUANTIZATIONS = ("none", "dynamic", "static")
DEFAULT_OPSET = 20
OLDEST_OPSET = 18  # the oldest that torch's exporter writes
# An ONNX file is one protobuf message, which cannot be larger than 2 GiB.
_MAX_BYTES = 2**31 - 2**20
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_PACKAGE = Path(__file__).resolve().parents[1]


@torch.inference_mode(False)  # tensors of that mode cannot be traced
def export_onnx(
    path: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    opset: int = DEFAULT_OPSET,
    image_size: int | None = None,
    quantize: str = "none",
    calibration_data: Any = None,
    calibration_images: int = 128,
) -> ExportResult:
    """Export a trained model as ONNX.

    Input `pixel_values` `(batch, channels, height, width)` with any batch and, where the backbone takes it, any image
    size; outputs `logits`, `class_activation_maps` and, for net2 and net3, `enhanced_activation_maps`.

    Args:
        path: Folder or Hub repository of a trained model.
        output: A `.onnx` file; by default `onnx/model.onnx` in the model's folder, with `_int8_dynamic` or
            `_int8_static` behind `model` if it is quantised.
        opset: Version of ONNX's operators, >= 18.
        image_size: Pixels of the square images that it is exported for; by default what its processor makes.
        quantize: `"none"` (fp32), `"dynamic"` (8-bit weights of linear layers, activations quantised as they come) or
            `"static"` (8-bit weights and activations of convolutions and linear layers, with ranges from
            `calibration_data`).
        calibration_data: For `"static"`: what `load_images` accepts, or a data set with an `image` column. The training
            split is used where there is one, so that the figures on other splits stay honest.
        calibration_images: Images drawn from it, >= 1.

    Returns:
        What was written: the model, a `.json` of the same name (see `description`), and `onnx_classifier.py` with
        `image_decoding.py`, which run it without torch. For a quantised file `differences` is no check but a figure:
        that of calibration images, or of noise where there are none.

    Raises:
        ExportError: torch cannot export the model, or onnxruntime computes something else from the fp32 file; nothing
            is written.
        ValueError: No such model, a wrong argument, or packages that are not installed.
    """
    _check_arguments(opset, quantize, calibration_data, calibration_images)
    name = "model.onnx" if quantize == "none" else f"model_int8_{quantize}.onnx"
    traced, preprocessing, target = load_for_export(path, image_size, output, f"onnx/{name}")
    pixels = None
    if quantize == "static":
        from .quantization import load_calibration_pixels

        pixels = load_calibration_pixels(calibration_data, preprocessing, calibration_images)
    with tempfile.TemporaryDirectory(prefix="cssfe-export-") as folder:
        made = Path(folder) / "model.onnx"
        _write_graph(traced, made, opset)
        differences = check_export(traced, onnx_runner(made))
        if quantize != "none":
            from .quantization import quantize_onnx

            made = quantize_onnx(made, Path(folder) / "quantized.onnx", pixels)
            judged = traced.check_images()[1] if pixels is None else torch.from_numpy(pixels[:8])
            differences = compare_outputs(traced, judged, onnx_runner(made))
        description = describe_export(
            traced, preprocessing, target.name, differences, format="onnx", quantization=quantize
        )
        files = [target, target.with_suffix(".json"), target.with_name("onnx_classifier.py")]
        files.append(target.with_name("image_decoding.py"))
        # The graph last: with it in place, everything that it needs is there.
        _copy_whole(_PACKAGE / "data" / "decoding.py", files[3])
        _copy_whole(_PACKAGE / "export" / "classifier.py", files[2])
        write_description(files[1], description)
        _copy_whole(made, target)
    return ExportResult(target, tuple(files), differences, traced.dynamic_image_size)


def onnx_runner(path: str | os.PathLike, num_threads: int = 0) -> Callable[[torch.Tensor], Sequence[np.ndarray]]:
    """An ONNX file as a function from pixel values to its outputs, on the CPU.

    Args:
        path: The file.
        num_threads: Threads of one inference; 0 for one a core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    return lambda pixel_values: session.run(None, {"pixel_values": pixel_values.numpy()})


def _check_arguments(opset: int, quantize: str, calibration_data: Any, calibration_images: int) -> None:
    if quantize not in QUANTIZATIONS:
        raise ValueError(f"unknown quantize {quantize!r}: choose one of {', '.join(QUANTIZATIONS)}.")
    if quantize == "static" and calibration_data is None:
        raise ValueError("static quantisation takes its ranges from images: give calibration_data.")
    if quantize != "static" and calibration_data is not None:
        raise ValueError(f"calibration_data is for static quantisation; quantize is {quantize!r}.")
    if calibration_images < 1:
        raise ValueError(f"calibration_images is {calibration_images}; give a number >= 1.")
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ValueError(f"exporting to ONNX needs {', '.join(missing)}; run `pip install 'cssfe[export]'`.")
    from onnx.defs import onnx_opset_version

    if not OLDEST_OPSET <= opset <= onnx_opset_version():
        raise ValueError(f"opset is {opset}; give a number from {OLDEST_OPSET} to {onnx_opset_version()}.")


def _write_graph(traced: TracedModel, path: Path, opset: int) -> None:
    model = traced.module.model
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > _MAX_BYTES:
        raise ExportError(f"the model holds {size / 2**30:.1f} GiB and an ONNX file at most 2: use torch_export.")
    axes = {0: "batch"}
    if traced.dynamic_image_size:
        axes |= {2: "height", 3: "width"}
    try:
        with torch.no_grad(), quiet():
            exported: Any = torch.onnx.export(
                traced.program,
                dynamo=True,
                verbose=False,
                input_names=["pixel_values"],
                output_names=list(traced.output_names),
                dynamic_shapes={"pixel_values": axes},
                opset_version=opset,
            )
            exported.save(os.fspath(path), external_data=False)
    except Exception as error:
        backbone = model.config.backbone
        raise ExportError(f"torch cannot write {backbone!r} as ONNX opset {opset}: {first_line(error)}") from error


def _copy_whole(source: Path, target: Path) -> None:
    write_whole(target, lambda file: shutil.copyfile(source, file))


__all__ = ["DEFAULT_OPSET", "OLDEST_OPSET", "QUANTIZATIONS", "export_onnx", "onnx_runner"]
