# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A trained model to a graph of `torch.export`, checked against the model it came from."""

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..common.files import write_whole
from ..common.model_loading import load_trained_model
from ..modeling_cssfe import CSSFEForImageClassification
from .description import describe_export, with_image_size


OUTPUT_NAMES = ("logits", "class_activation_maps", "enhanced_activation_maps")
# Largest difference from the eager model that an export may have, in units of the output's largest value or of 1,
# whichever is more: maps have no fixed scale.
TOLERANCE = 1e-4


class ExportError(RuntimeError):
    """A model that cannot be exported, or whose export computes something else; the message is one line."""


class ExportableClassifier(nn.Module):
    """The model as a function from a tensor to a tuple of tensors, which is what a graph has.

    Args:
        model: A trained model; it is put into evaluation mode.
    """

    def __init__(self, model: CSSFEForImageClassification):
        super().__init__()
        self.model = model.eval()

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return logits `(B, C)`, maps `(B, C, H, W)` and, where there are any, enhanced maps `(B, C, H, W)`."""
        output = self.model(pixel_values=pixel_values)
        return tuple(getattr(output, name) for name in OUTPUT_NAMES if getattr(output, name) is not None)


@dataclass(frozen=True)
class TracedModel:
    """A model and its graph.

    Attributes:
        module: The eager model as a function to a tuple.
        program: Its graph.
        output_names: Of the tuple's entries.
        image_size: Height and width in pixels that it is exported for.
        dynamic_image_size: Whether the graph takes other sizes too.
    """

    module: ExportableClassifier
    program: torch.export.ExportedProgram
    output_names: tuple[str, ...]
    image_size: tuple[int, int]
    dynamic_image_size: bool

    def check_images(self) -> list[torch.Tensor]:
        """Batches that an export is compared on: of 1 and 3 images and, where the graph takes it, of another size."""
        height, width = self.image_size
        shapes = [(1, height, width), (3, height, width)]
        if self.dynamic_image_size:
            shapes.append((2, *_other_size(self.module.model, self.image_size)))
        generator = torch.Generator().manual_seed(0)
        channels = self.module.model.config.num_channels
        return [torch.randn(batch, channels, *size, generator=generator) for batch, *size in shapes]


@dataclass(frozen=True)
class ExportResult:
    """What an export has written.

    Attributes:
        path: The model's file.
        files: All files, that one first.
        differences: For each output the largest difference from the eager model, relative to the output's largest
            value or 1.
        dynamic_image_size: Whether the file takes images of other sizes.
    """

    path: Path
    files: tuple[Path, ...]
    differences: dict[str, float]
    dynamic_image_size: bool


def trace_model(
    model: CSSFEForImageClassification, image_size: tuple[int, int], any_image_size: bool = True
) -> TracedModel:
    """Trace a model in fp32 on the CPU, for any batch size and, where the backbone takes it, any image size.

    Args:
        model: A trained model; it is moved and cast in place.
        image_size: Height and width in pixels.
        any_image_size: Whether to try for other sizes than that.

    Raises:
        ExportError: torch cannot trace it.
        ValueError: The model does not take images of this size.
    """
    module = ExportableClassifier(model.float().cpu())
    images = torch.randn(2, model.config.num_channels, *image_size)
    with torch.no_grad():
        outputs = module(images)
    names = OUTPUT_NAMES[: len(outputs)]
    batch = {0: torch.export.Dim.DYNAMIC}
    if any_image_size and _may_be_dynamic(model):
        # torch has a dozen kinds of exceptions for a size that cannot vary; the size is fixed then.
        with suppress(Exception):
            program = _trace(module, images, batch | {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC})
            traced = TracedModel(module, program, names, image_size, dynamic_image_size=True)
            check_export(traced, program.module())
            return traced
    try:
        program = _trace(module, images, batch)
    except Exception as error:
        raise ExportError(f"torch cannot trace {model.config.backbone!r}: {first_line(error)}") from error
    return TracedModel(module, program, names, image_size, dynamic_image_size=False)


def _trace(module: nn.Module, images: torch.Tensor, dynamic: dict[int, Any]) -> torch.export.ExportedProgram:
    with torch.no_grad(), quiet():
        return torch.export.export(module, (images,), dynamic_shapes={"pixel_values": dynamic})


def _may_be_dynamic(model: CSSFEForImageClassification) -> bool:
    config = model.config
    fixed = config.map_gate or config.map_value_projection == "spatial"
    # Backbones of windows pad and shift by the size; torch had not traced Swin-T for an unknown one in four minutes.
    return not fixed and model.cssfe.backbone.layout != "channels_last"


def _other_size(model: CSSFEForImageClassification, image_size: tuple[int, int]) -> tuple[int, int]:
    """A larger size that the strides of the backbone divide as they do the configured one."""
    config, backbone = model.config, model.cssfe.backbone
    rows, columns = (
        round(size / count) for size, count in zip(config.image_height_and_width, backbone.map_size, strict=True)
    )
    return image_size[0] + rows, image_size[1] + 2 * columns


def check_export(traced: TracedModel, run: Callable[[torch.Tensor], Sequence[Any]]) -> dict[str, float]:
    """Compare an export with the eager model.

    Args:
        traced: The model.
        run: From pixel values to the export's outputs.

    Returns:
        The largest difference of each output.

    Raises:
        ExportError: One is larger than `TOLERANCE`.
    """
    largest = dict.fromkeys(traced.output_names, 0.0)
    for images in traced.check_images():
        found = compare_outputs(traced, images, run)
        largest = {name: max(largest[name], found[name]) for name in largest}
    worst = max(largest, key=lambda name: largest[name])
    # Not "greater than", so that NaN is refused too.
    if not largest[worst] <= TOLERANCE:
        raise ExportError(
            f"the exported {worst} differ from the model's by {largest[worst]:.2g} (allowed: {TOLERANCE:.0e}); nothing "
            "was written. Try another opset or another version of torch."
        )
    return largest


def compare_outputs(
    traced: TracedModel, images: torch.Tensor, run: Callable[[torch.Tensor], Sequence[Any]]
) -> dict[str, float]:
    """Largest difference of each output on a batch, relative to the output's largest value or 1."""
    with torch.no_grad():
        expected = traced.module(images)
        found = [torch.as_tensor(output) for output in run(images)]
    differences = {}
    for name, right, output in zip(traced.output_names, expected, found, strict=True):
        if right.shape != output.shape:
            raise ExportError(
                f"the exported {name} have the shape {tuple(output.shape)}, expected {tuple(right.shape)}."
            )
        difference = ((right - output).abs().max() / right.abs().max().clamp(min=1)).item()
        differences[name] = difference if difference == difference else float("inf")
    return differences


def load_for_export(
    path: str | os.PathLike, image_size: int | None, output: str | os.PathLike | None, default: str
) -> tuple[TracedModel, dict[str, Any], Path]:
    """Load and trace a model.

    Args:
        path: Folder or Hub repository of a trained model.
        image_size: Pixels of the square images that it is exported for; by default what its processor makes.
        output: File wanted, with the ending of `default`.
        default: Where it goes without `output`, below the model's folder.

    Returns:
        The traced model, its preprocessing, and the file to write.

    Raises:
        ExportError: torch cannot trace it.
        ValueError: There is no such model, its image processor does something that an export cannot say, the file's
            name has another ending, or the `.json` of the same name belongs to something else.
    """
    target = Path(path, default) if output is None else Path(output)
    if output is None and not Path(path).is_dir():
        raise ValueError(f"{os.fspath(path)!r} is no folder here; say where the export goes with --output.")
    if target.suffix != Path(default).suffix or target.is_dir():
        raise ValueError(f"output {os.fspath(target)!r} must be a file that ends in {Path(default).suffix}.")
    check_description_is_free(target)
    model, processor = load_trained_model(path)
    preprocessing = with_image_size(processor, image_size)
    traced = trace_model(model, (preprocessing["height"], preprocessing["width"]))
    return traced, preprocessing, target


@torch.inference_mode(False)  # tensors of that mode cannot be traced
def export_torch(
    path: str | os.PathLike, output: str | os.PathLike | None = None, *, image_size: int | None = None
) -> ExportResult:
    """Export a trained model as a graph of `torch.export`.

    `torch.export.load(FILE).module()(pixel_values)` runs it; load only files that you wrote, as torch unpickles a part
    of them.

    Args:
        path: Folder or Hub repository of a trained model.
        output: A `.pt2` file; by default `torch_export/model.pt2` in the model's folder.
        image_size: Pixels of the square images that it is exported for; by default what its processor makes.

    Returns:
        What was written: the file and, beside it, a `.json` with preprocessing, labels, thresholds and calibration.

    Raises:
        ExportError: torch cannot trace the model, or the graph computes something else; nothing is written.
        ValueError: As for `load_for_export`.
    """
    traced, preprocessing, target = load_for_export(path, image_size, output, "torch_export/model.pt2")
    try:
        content = _serialize(traced)
    except ExportError:
        if not traced.dynamic_image_size:
            raise
        # Some sums over an unknown size can be traced and not written down, such as those of dilated strides.
        traced = trace_model(traced.module.model, traced.image_size, any_image_size=False)
        content = _serialize(traced)
    differences = check_export(traced, traced.program.module())
    description = describe_export(traced, preprocessing, target.name, differences, format="torch_export")
    write_whole(target, lambda file: file.write_bytes(content))
    described = target.with_suffix(".json")
    write_description(described, description)
    return ExportResult(target, (target, described), differences, traced.dynamic_image_size)


def _serialize(traced: TracedModel) -> bytes:
    stream = io.BytesIO()
    try:
        with quiet():
            torch.export.save(traced.program, stream)
    except Exception as error:  # of any of torch's kinds
        raise ExportError(f"torch cannot save the graph: {first_line(error)}") from error
    return stream.getvalue()


def check_description_is_free(target: Path) -> None:
    """Keep an export from replacing a `.json` of another kind, such as the model's own `config.json`.

    Raises:
        ValueError: The file of that name does not describe an export to `target`.
    """
    described = target.with_suffix(".json")
    if not described.exists():
        return
    try:
        before = json.loads(described.read_text(encoding="utf-8"))["file"]
    except (OSError, ValueError, TypeError, KeyError):
        before = None
    if before != target.name:
        whose = f"belongs to {before!r}" if isinstance(before, str) else "is no description of an export"
        raise ValueError(
            f"{os.fspath(described)!r}, which the export would replace, {whose}; choose another name than "
            f"{target.name!r}."
        )


def write_description(path: Path, description: dict[str, Any]) -> None:
    """Write the JSON file beside a model, whole or not at all."""
    text = json.dumps(description, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what torch and its converters remark on their own code from the user of an export."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


__all__ = [
    "OUTPUT_NAMES",
    "TOLERANCE",
    "ExportError",
    "ExportResult",
    "ExportableClassifier",
    "TracedModel",
    "check_description_is_free",
    "check_export",
    "compare_outputs",
    "export_torch",
    "first_line",
    "load_for_export",
    "quiet",
    "trace_model",
    "write_description",
]
