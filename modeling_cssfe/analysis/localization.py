# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Whether a model's maps lie on the objects, for every kind of map, class and group.

One pass over the data: maps of the classes that have boxes are brought to a common grid, judged, and forgotten.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from ..data import EvaluationTransform, build_data_loader
from ..data.decoding import read_encoded
from ..evaluation.bootstrap import DEFAULT_RESAMPLES
from ..metrics.inputs import check_choice, check_positive_integer
from .box_measures import best_overlaps, box_masks, energy_inside, is_flat, pointing_hits
from .boxes import ImageBoxes
from .streamed_means import StreamedMeans, Summary
from .visible_boxes import DIFFICULT_RULES, boxes_of_class, visible_boxes, visible_window


if TYPE_CHECKING:
    import datasets

SIGNS = ("auto", "positive", "magnitude")
MAP_THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
OVERLAPS = (0.3, 0.5, 0.7)
# Side of the grid that maps are judged on, as in the protocol of MaxBoxAcc; finer gains nothing from 7 x 7 or 14 x 14.
GRID = 224
_EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class KindResult:
    """What one kind of map gets.

    Attributes:
        figures: `pointing`, `energy`, `box_iou` and `box_accuracy_30`, `_50`, `_70` -> by class and group.
        threshold: Of `box_iou` and the accuracies: the cut through the map, of those tried, that gives the highest
            mean accuracy over all classes. It is chosen on the images that are judged, for each kind alike.
        by_threshold: Cut -> mean accuracy over all classes and overlaps.
        flat_maps: Maps that point nowhere, which score 0.
    """

    figures: dict[str, Summary]
    threshold: float
    by_threshold: dict[float, float]
    flat_maps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "threshold": self.threshold,
            "by_threshold": {str(key): value for key, value in self.by_threshold.items()},
            "flat_maps": self.flat_maps,
            "figures": {name: summary.to_dict() for name, summary in self.figures.items()},
        }


@dataclass(frozen=True)
class LocalizationResult:
    """Localization of one model.

    Attributes:
        kinds: Kind of map -> what it gets.
        box_area: Share of the image that the boxes of a class cover: what `pointing` and `energy` would be by chance.
        num_images: Images with a box.
        num_maps: Pairs of an image and a class with a box.
        options: How it was measured.
    """

    kinds: dict[str, KindResult]
    box_area: Summary
    num_images: int
    num_maps: int
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "num_images": self.num_images,
            "num_maps": self.num_maps,
            "options": self.options,
            "box_area": self.box_area.to_dict(),
            "kinds": {name: result.to_dict() for name, result in self.kinds.items()},
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a kind, figure and class or group, for CSV."""
        from dataclasses import asdict

        rows = []
        for kind, figures in {"": {"box_area": self.box_area}, **{k: r.figures for k, r in self.kinds.items()}}.items():
            for figure, summary in figures.items():
                for level, entries in (("group", summary.groups), ("class", summary.per_class)):
                    rows += [
                        {"map": kind, "figure": figure, "level": level, "name": name, **asdict(entry)}
                        for name, entry in entries.items()
                    ]
        return rows


def measure_localization(
    model: torch.nn.Module,
    processor: Any,
    dataset: "datasets.Dataset",
    boxes: Mapping[str, ImageBoxes],
    *,
    kinds: Sequence[str] | None = None,
    layer: str | None = None,
    sign: str = "auto",
    difficult: str = "include",
    tolerance: float = 0.0,
    batch_size: int = 32,
    num_workers: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
    progress: bool = False,
) -> LocalizationResult:
    """Measure how well maps lie on the boxes of their class.

    Args:
        model: A CSSFE model, on its device.
        processor: Its image processor.
        dataset: As `load_images` gives it.
        boxes: From `load_boxes`, by image id.
        kinds: Kinds of map (`modeling_cssfe.explain.MAP_KINDS`); None for all that the model has.
        layer: Of the kinds by gradients; None for the last feature map.
        sign: What of a signed map speaks for its class: `"positive"` values, or the `"magnitude"`. `"auto"` takes the
            magnitude where the model gathers features by the signed map (net1 to net3 with `map_pooling="mean"`), as
            then either sign may stand on the object, and positive values elsewhere.
        difficult: Whether objects marked difficult are targets; see `boxes_of_class`.
        tolerance: Of the pointing game, as a fraction of the image's sides.
        batch_size: Images a step; does not change the result.
        num_workers: Loader processes.
        resamples: Of the intervals.
        seed: Of the resamples.
        confidence: Share of resamples within an interval.
        progress: Show a progress bar.

    Returns:
        The figures, with percentile intervals over images.

    Raises:
        ValueError: No image has boxes of the model's classes, an image is of another shape than its annotation, or an
            option is out of range.
    """
    from ..explain.kinds import available_kinds, check_layer_use

    check_choice("sign", sign, SIGNS)
    check_choice("difficult", difficult, DIFFICULT_RULES)
    check_positive_integer("batch_size", batch_size)
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance is {tolerance}; give a fraction of the image's sides, in [0, 1).")
    config: Any = model.config
    names = list(config.label_names)
    kinds = list(dict.fromkeys(kinds)) if kinds else available_kinds(model)
    check_layer_use(layer, kinds)
    rows = [row for row, image_id in enumerate(dataset["image_id"]) if image_id in boxes]
    if not rows:
        raise ValueError(f"none of the {len(dataset)} images has boxes; their ids must agree with the annotations'.")
    judged = dataset.select(rows)
    means = {kind: StreamedMeans(names, config.groups, resamples, seed, confidence) for kind in kinds}
    areas = StreamedMeans(names, config.groups, resamples, seed, confidence)
    flat, num_maps, num_images = dict.fromkeys(kinds, 0), 0, 0
    for batch in _batches(judged, processor, batch_size, num_workers, progress):
        pairs = _pairs(judged, batch["index"].tolist(), boxes, names, processor, difficult)
        values = _judge_batch(model, batch["pixel_values"], pairs, kinds, layer, sign, tolerance)
        num_maps += len(pairs)
        num_images += len({row for row, _, _ in pairs})
        shape = (len(batch["index"]), len(names))
        for kind in kinds:
            flat[kind] += int(values[kind].pop("flat").sum())
            means[kind].add({name: _place(found, pairs, shape) for name, found in values[kind].items()})
        areas.add({"box_area": _place(box_masks([own for *_, own in pairs], GRID, GRID).mean((1, 2)), pairs, shape)})
    if not num_maps:
        raise ValueError("no image has a box to judge: all are difficult, or cut off by the processor's crop.")
    return LocalizationResult(
        kinds={kind: _kind_result(means[kind], flat[kind]) for kind in kinds},
        box_area=areas.summarize("box_area"),
        num_images=num_images,
        num_maps=num_maps,
        options={
            "sign": resolve_sign(config, sign),
            "difficult": difficult,
            "tolerance": tolerance,
            "grid": GRID,
            "layer": layer,
            "resamples": resamples,
            "seed": seed,
            "confidence": confidence,
        },
    )


def resolve_sign(config: Any, sign: str) -> str:
    """What `"auto"` means for a model; see `measure_localization`."""
    if sign != "auto":
        return sign
    signed = getattr(config, "uses_fusion", False) and getattr(config, "map_pooling", None) == "mean"
    return "magnitude" if signed else "positive"


def _batches(dataset: "datasets.Dataset", processor: Any, batch_size: int, num_workers: int, progress: bool):
    from tqdm.auto import tqdm

    loader = build_data_loader(dataset, EvaluationTransform(processor), batch_size=batch_size, num_workers=num_workers)
    return tqdm(loader, desc="localization", leave=False, disable=not progress)


def _pairs(
    dataset: "datasets.Dataset",
    rows: Sequence[int],
    boxes: Mapping[str, ImageBoxes],
    names: Sequence[str],
    processor: Any,
    difficult: str,
) -> list[tuple[int, int, np.ndarray]]:
    """Position in the batch, class, and boxes of every class with boxes on every image."""
    pairs = []
    for position, row in enumerate(rows):
        entry = dataset[row]
        own = boxes[entry["image_id"]]
        width, height = _upright_size(entry)
        fractions = own.fractions(width, height)
        window = visible_window(processor, width, height)
        for name in dict.fromkeys(own.names):
            of_class = visible_boxes(boxes_of_class(own, name, fractions, difficult), window)
            if len(of_class):
                pairs.append((position, names.index(name), of_class))
    return pairs


def _upright_size(row: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of an image as it is decoded, read from its header."""
    from PIL import Image

    with Image.open(io.BytesIO(read_encoded(row["image"], image_id=row["image_id"]))) as opened:
        width, height = opened.size
        turned = opened.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def _judge_batch(
    model: Any,
    pixels: torch.Tensor,
    pairs: Sequence[tuple[int, int, np.ndarray]],
    kinds: Sequence[str],
    layer: str | None,
    sign: str,
    tolerance: float,
) -> dict[str, dict[str, np.ndarray]]:
    """Figures of every pair, by kind."""
    from ..explain.kinds import explain_batch, get_map_kind

    device = next(model.parameters()).device
    targets, slots = pad_targets([(position, label) for position, label, _ in pairs], len(pixels))
    weighed = [kind for kind in kinds if get_map_kind(kind).weigh is not None]
    own = [kind for kind in kinds if kind not in weighed]
    maps: dict[str, torch.Tensor] = {}
    for members, of_layer in ((own, None), (weighed, layer)):
        if members:
            maps |= explain_batch(model, pixels.to(device), members, targets.to(device), layer=of_layer).maps
    rows = [position for position, _, _ in pairs]
    owned = [boxes for *_, boxes in pairs]
    masks = box_masks(owned, GRID, GRID)
    found = {}
    for kind in kinds:
        chosen = maps[kind][rows, slots].float()
        if resolve_sign(model.config, sign) == "magnitude" and get_map_kind(kind).signed:
            chosen = chosen.abs()
        # Before it is enlarged: between cells an enlarged map may have its highest value by rounding.
        flat = is_flat(chosen.cpu().numpy()) if len(pairs) else np.zeros(0, dtype=bool)
        large = F.interpolate(chosen[:, None], size=(GRID, GRID), mode="bilinear", align_corners=False)[:, 0]
        grid = large.cpu().numpy()
        best = best_overlaps(grid, owned, MAP_THRESHOLDS)
        values = {
            "flat": flat,
            "pointing": pointing_hits(grid, owned, tolerance),
            "energy": energy_inside(grid, masks),
        }
        for column, threshold in enumerate(MAP_THRESHOLDS):
            values[f"box_iou@{threshold}"] = best[:, column]
            for overlap in OVERLAPS:
                values[f"{_accuracy(overlap)}@{threshold}"] = (best[:, column] >= overlap).astype(np.float64)
        found[kind] = values
    return found


def pad_targets(pairs: Sequence[tuple[int, int]], batch: int) -> tuple[torch.Tensor, list[int]]:
    """`(batch, K)` class ids, K the most that an image has, and the column of each pair; the rest repeats class 0."""
    columns: list[list[int]] = [[] for _ in range(batch)]
    slots = []
    for position, label in pairs:
        slots.append(len(columns[position]))
        columns[position].append(label)
    width = max(1, *(len(column) for column in columns)) if columns else 1
    return torch.tensor([column + [0] * (width - len(column)) for column in columns]), slots


def _place(values: np.ndarray, pairs: Sequence[tuple[int, int, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    placed = np.full(shape, np.nan)
    for value, (position, label, _) in zip(values, pairs, strict=True):
        placed[position, label] = value
    return placed


def _accuracy(overlap: float) -> str:
    return f"box_accuracy_{round(100 * overlap)}"


def _kind_result(means: StreamedMeans, flat: int) -> KindResult:
    by_threshold: dict[float, float] = {}
    for threshold in MAP_THRESHOLDS:
        values = [np.nanmean(means.means(f"{_accuracy(overlap)}@{threshold}")[0]) for overlap in OVERLAPS]
        by_threshold[threshold] = float(np.mean(values))
    # Among cuts that are right equally often, the one whose boxes fit better.
    overlap_at = {threshold: np.nanmean(means.means(f"box_iou@{threshold}")[0]) for threshold in MAP_THRESHOLDS}
    best = max(MAP_THRESHOLDS, key=lambda threshold: (by_threshold[threshold], overlap_at[threshold]))
    figures = {name: means.summarize(name) for name in ("pointing", "energy")}
    for name in ("box_iou", *map(_accuracy, OVERLAPS)):
        figures[name] = means.summarize(f"{name}@{best}")
    return KindResult(figures, best, by_threshold, flat)


FIGURES = ("pointing", "energy", "box_iou", *map(_accuracy, OVERLAPS))

__all__ = [
    "FIGURES",
    "MAP_THRESHOLDS",
    "OVERLAPS",
    "SIGNS",
    "KindResult",
    "LocalizationResult",
    "measure_localization",
    "pad_targets",
    "resolve_sign",
]
