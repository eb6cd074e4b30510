# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe explain`: images to maps of what the model looks at, and a model to its enhancement matrix."""

import argparse
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._verbs import AddVerb


if TYPE_CHECKING:
    from PIL import Image

    from ..explain import GridRow


def register(add: AddVerb) -> None:
    """Declare `cssfe explain`."""
    explain = add("explain", _explain, "Draw maps of what the model looks at, or which class gives to which.")
    explain.add_argument("model", help="folder or Hub repository of a trained model")
    explain.add_argument("image", nargs="*", help="image files, folders of images, or quoted patterns")
    explain.add_argument("--labels", nargs="+", metavar="LABEL", help="label names (default: the highest scores)")
    explain.add_argument("--top_k", type=int, default=3, help="labels drawn where none are named")
    explain.add_argument(
        "--kinds",
        nargs="+",
        metavar="KIND",
        help="cam, enhanced, unmasked, grad_cam, grad_cam_plus_plus, layer_cam (default: cam, and enhanced where the "
        "model makes it)",
    )
    explain.add_argument(
        "--layer", help="layer of the kinds by gradients, such as layer3 (default: the last feature map)"
    )
    explain.add_argument(
        "--compare", nargs="+", default=[], metavar="MODEL", help="further models, such as one without the mask"
    )
    explain.add_argument("--device", help="such as cuda or cpu; default: the GPU if there is one")
    explain.add_argument("--shared_scale", action="store_true", help="one colour scale for the maps of a row")
    explain.add_argument("--grid", action="store_true", help="all images in one picture, not a picture for each")
    explain.add_argument("--overlays", metavar="FOLDER", help="write each map over its photograph too, in full size")
    explain.add_argument(
        "--enhancement_matrix", action="store_true", help="which class gives to which; needs no images"
    )
    explain.add_argument(
        "--output", default="explanation.png", help="PNG or SVG file; for --enhancement_matrix also CSV or JSON"
    )


def _explain(options: argparse.Namespace) -> None:
    if options.enhancement_matrix:
        _write_matrix(options)
        return
    from ..common.figures import check_figure_path
    from ..explain import draw_grid, explain_images
    from ..inference.files import find_images

    check_figure_path(options.output)
    if not options.image:
        raise ValueError("there is no image to explain; give image files, or --enhancement_matrix.")
    if options.top_k < 1:
        raise ValueError(f"--top_k is {options.top_k}; give a number >= 1.")
    files = [Path(file) for file in find_images(options.image)]
    models = _load_models([options.model, *options.compare], options.device)
    rows = explain_images(models, _read(files), options.labels, options.top_k, options.kinds, options.layer)
    if options.overlays:
        rows = _write_overlays(rows, Path(options.overlays), options.shared_scale)
    for output, some in _pictures(rows, files, options):
        written, notes = draw_grid(some, output, options.shared_scale)
        for line in [os.fspath(picture) for picture in written] + [f"note: {note}" for note in notes]:
            print(line)


def _load_models(paths: list[str], device: str | None) -> dict[str, tuple[Any, Any]]:
    from ..common.model_loading import load_trained_model
    from ..inference.predictor import resolve_device

    place = resolve_device(device)
    models = {}
    for path in paths:
        # The folder's own name is what a reader of the figure knows the model by, if that tells the models apart.
        stems = [Path(other).name for other in paths]
        name = Path(path).name if stems.count(Path(path).name) == 1 else path
        if name in models:
            raise ValueError(f"model {path!r} is given twice; compare different ones.")
        model, processor = load_trained_model(path)
        models[name] = (model.to(place), processor)
    return models


def _read(files: list[Path]) -> Iterator[tuple[str, "Image.Image"]]:
    from tqdm.auto import tqdm

    from ..data import decode_image

    for file in tqdm(files, desc="explaining", unit="image", leave=False, disable=len(files) < 5):
        yield file.name, decode_image(os.fspath(file))


def _pictures(
    rows: "Iterator[GridRow]", files: list[Path], options: argparse.Namespace
) -> "Iterator[tuple[Path, Iterator[GridRow]]]":
    """The pictures to draw: output file, and its rows."""
    output = Path(options.output)
    if options.grid or len(files) == 1:
        yield output, rows
        return
    for number, own in itertools.groupby(rows, key=lambda row: row.number):
        # Numbered, as files of several folders may have the same name.
        yield output.with_name(f"{output.stem}_{number + 1}_{files[number].stem}{output.suffix}"), own


def _write_overlays(rows: "Iterator[GridRow]", folder: Path, shared_scale: bool) -> "Iterator[GridRow]":
    """Write each map as a picture of the photograph's size while the rows pass through."""
    from ..common.files import write_whole
    from ..explain import get_map_kind, overlay, resize_maps
    from ..explain.grids import row_scales

    for row in rows:
        for panel, top in zip(row.panels, row_scales(row, shared_scale), strict=True):
            values = resize_maps(panel.values[None], (row.image.height, row.image.width))[0]
            picture = overlay(row.image, values, get_map_kind(panel.kind).signed, top)
            name = f"{row.number + 1}_{Path(row.name).stem}_{row.label}_{panel.model}_{panel.kind}.png"
            write_whole(folder / name.replace(os.sep, "_"), picture.save)
        yield row


def _write_matrix(options: argparse.Namespace) -> None:
    from ..common.model_loading import load_trained_model
    from ..explain.enhancement import check_matrix_path, compute_enhancement_matrix, write_enhancement_matrix

    check_matrix_path(options.output)
    if options.image:
        raise ValueError("the enhancement matrix is the same for every image; give no images with it.")
    model, _ = load_trained_model(options.model)
    write_enhancement_matrix(compute_enhancement_matrix(model), options.output)
    print(options.output)


__all__ = ["register"]
