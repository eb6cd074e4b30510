# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The feature-learning study: one network trained on balanced data beside one trained on a long tail.

Source: CSSFE (ICCV 2025), Figure 3, and the probability curves of Lin, "Probability Guided Loss" (AAAI 2023). For every
image and class that it shows:

- `spearman`: rank correlation of the two networks' maps of the class (Figure 3a), and two controls. `spearman_noise`
  takes Gaussian noise for the long-tailed network's map, as the paper does. `spearman_other_image` takes that network's
  map of the same class on the image before: what is left there is common to all images of the class, such as an object
  in the middle, and no localization of this one. The paper has no such control.
- `attenuation_contrast`, `attenuation_positive`: how much weaker the long-tailed network attends where the balanced one
  attends most (Figure 3b); `modeling_cssfe.analysis.attenuation` has the definition. A group's is made of its classes'
  mean attention.
- `logit_*` and `probability_*`: of images with and without the class under both networks, and the `*_drift_*` from the
  balanced to the long-tailed one.

The data are read once. Maps live as long as their batch; what stays is a map of each class for the control, and sums.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..evaluation.bootstrap import DEFAULT_RESAMPLES
from .attenuation import ATTENTIONS, top_attention
from .correlation import spearman
from .localization import pad_targets, resolve_sign
from .streamed_means import StreamedMeans, Summary


MODELS = ("balanced", "long_tailed")
CORRELATIONS = ("spearman", "spearman_noise", "spearman_other_image")
# A class whose map the balanced network hardly ever lifts above 0, by less than this share of how far the map rises,
# has no positive attention that could be attenuated: the ratio of two such numbers means nothing.
LEAST_ATTENTION = 0.01
ATTENUATIONS = tuple(f"attenuation_{kind}" for kind in ATTENTIONS)


@dataclass(frozen=True)
class StudyResult:
    """What the study found.

    Attributes:
        figures: Name -> by class and group; see the module's text.
        groups: Class name -> `head`, `medium` or `tail`, by the long-tailed network's training counts.
        num_images: Images seen.
        num_maps: Pairs of an image and a class that it shows.
        flat_maps: Of each network, maps that are constant and have no correlation.
        options: How it was measured.
    """

    figures: dict[str, Summary]
    groups: dict[str, str]
    num_images: int
    num_maps: int
    flat_maps: dict[str, int]
    options: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "num_images": self.num_images,
            "num_maps": self.num_maps,
            "flat_maps": self.flat_maps,
            "options": self.options,
            "class_groups": self.groups,
            "figures": {name: summary.to_dict() for name, summary in self.figures.items()},
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row a figure and class or group, for CSV."""
        rows = []
        for figure, summary in self.figures.items():
            rows += [
                {"figure": figure, "level": "group", "name": name, "group": name, "images": None, **asdict(entry)}
                for name, entry in summary.groups.items()
            ]
            rows += [
                {
                    "figure": figure,
                    "level": "class",
                    "name": name,
                    "group": self.groups[name],
                    "images": summary.images[name],
                    **asdict(entry),
                }
                for name, entry in summary.per_class.items()
            ]
        return rows


def compare_networks(
    balanced: Any,
    long_tailed: Any,
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    kind: str = "cam",
    layer: str | None = None,
    sign: str = "signed",
    resamples: int = DEFAULT_RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> StudyResult:
    """Compare what two networks see, in one pass.

    Args:
        balanced: A CSSFE model trained on balanced data.
        long_tailed: One trained on long-tailed data, with the same classes in the same order. Its class counts make
            the groups.
        batches: Each with `pixel_values` `(B, 3, H, W)`, or `pixel_values_balanced` and `pixel_values_long_tailed`
            where the two models take different ones, and `labels` `(B, C)`: 1, 0, or -1 for unknown. Read once.
        kind: Kind of map, a name of `modeling_cssfe.explain.MAP_KINDS`.
        layer: Of the kinds by gradients; None for the last feature map.
        sign: `"signed"` compares maps as they are, `"magnitude"` their absolute values; `"auto"` the latter for models
            that gather features by the signed map (see `measure_localization`).
        resamples: Of the intervals.
        seed: Of the resamples and the noise. Neither depends on how images are put into batches.
        confidence: Share of resamples within an interval.

    Returns:
        All figures, with percentile intervals over images.

    Raises:
        ValueError: The models have different classes, an unknown kind or sign, or the batches show no class.
    """
    names = list(long_tailed.config.label_names)
    if list(balanced.config.label_names) != names:
        raise ValueError(
            "the balanced model has other classes than the long-tailed one, or another order; train both on data with "
            "the same label names."
        )
    if sign not in ("auto", "signed", "magnitude"):
        raise ValueError(f"unknown sign {sign!r}; choose one of auto, signed, magnitude.")
    models = dict(zip(MODELS, (balanced, long_tailed), strict=True))
    magnitude = {
        name: sign == "magnitude" or (sign == "auto" and resolve_sign(model.config, "auto") == "magnitude")
        for name, model in models.items()
    }
    means = StreamedMeans(names, long_tailed.config.groups, resamples, seed, confidence)
    pass_ = _Pass(len(names), seed)
    num_images = num_maps = 0
    for batch in batches:
        labels = batch["labels"].cpu().numpy()
        pairs = [(int(row), int(label)) for row, label in zip(*np.nonzero(labels > 0), strict=True)]
        logits, maps = {}, {}
        for name, model in models.items():
            pixels = batch[f"pixel_values_{name}"] if f"pixel_values_{name}" in batch else batch["pixel_values"]
            logits[name], found = _explain(model, pixels, pairs, kind, layer)
            maps[name] = found.abs() if magnitude[name] else found
        values = _score_figures(logits, labels)
        values |= {name: _place(found, pairs, labels.shape) for name, found in pass_.map_figures(maps, pairs).items()}
        means.add(values)
        num_images, num_maps = num_images + len(labels), num_maps + len(pairs)
    if not num_maps:
        raise ValueError("no image shows a class, so there is no map to compare; give data with labels.")
    return StudyResult(
        figures=_summaries(means),
        groups=dict(zip(names, long_tailed.config.groups, strict=True)),
        num_images=num_images,
        num_maps=num_maps,
        flat_maps=pass_.flat,
        options={
            "kind": kind,
            "layer": layer,
            "sign": sign,
            "resamples": resamples,
            "seed": seed,
            "confidence": confidence,
        },
    )


class _Pass:
    """What goes along from batch to batch: the noise, the last map of each class, and counts."""

    def __init__(self, num_classes: int, seed: int):
        # A stream of its own, as the resamples take that of the seed itself.
        self._noise = np.random.default_rng(np.random.SeedSequence([seed, 1]))
        self._last: list[torch.Tensor | None] = [None] * num_classes
        self.flat = dict.fromkeys(MODELS, 0)

    def map_figures(self, maps: Mapping[str, torch.Tensor], pairs: Sequence[tuple[int, int]]) -> dict[str, np.ndarray]:
        """Figures of each pair from `(P, H, W)` maps; those of the long-tailed network are brought to the others'."""
        # Ranks and means are in fp64, which Apple's GPUs do not have.
        first, second = (maps[name].cpu() if maps[name].device.type == "mps" else maps[name] for name in MODELS)
        first, second = first.float(), second.float().to(first.device)
        if second.shape != first.shape and len(pairs):
            second = F.interpolate(second[:, None], size=first.shape[1:], mode="bilinear", align_corners=False)[:, 0]
        first, second = first.flatten(1), second.flatten(1)
        noise = torch.from_numpy(self._noise.standard_normal(tuple(first.shape), dtype=np.float32)).to(first.device)
        figures = {
            "spearman": spearman(first, second),
            "spearman_noise": spearman(first, noise),
            "spearman_other_image": spearman(first, self._before(second, pairs)),
        }
        for kind in ATTENTIONS:
            of_balanced, of_long_tailed = top_attention(first, second, kind)
            figures[f"attention_{kind}_balanced"] = of_balanced
            figures[f"attention_{kind}_long_tailed"] = of_long_tailed
        for name, values in (("balanced", first), ("long_tailed", second)):
            self.flat[name] += int((values.amax(1) == values.amin(1)).sum()) if len(pairs) else 0
        return {name: values.cpu().numpy() for name, values in figures.items()}

    def _before(self, maps: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
        """The map that each class had on the image before; NaN at its first image."""
        rows = []
        for values, (_, label) in zip(maps, pairs, strict=True):
            last = self._last[label]
            # Images may come in several sizes, and maps with them.
            rows.append(torch.full_like(values, torch.nan) if last is None or last.shape != values.shape else last)
            self._last[label] = values.clone()
        return torch.stack(rows) if rows else maps


def _explain(
    model: Any, pixels: torch.Tensor, pairs: Sequence[tuple[int, int]], kind: str, layer: str | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(B, C)`, and the map `(P, H, W)` of each pair."""
    from ..explain.kinds import explain_batch

    device = next(model.parameters()).device
    targets, slots = pad_targets(pairs, len(pixels))
    explained = explain_batch(model, pixels.to(device), [kind], targets.to(device), layer=layer)
    return explained.logits, explained.maps[kind][[row for row, _ in pairs], slots]


def _score_figures(logits: Mapping[str, torch.Tensor], labels: np.ndarray) -> dict[str, np.ndarray]:
    """Logits and probabilities where a class is present and where it is absent, and how they differ."""
    present = {"positive": labels > 0, "negative": labels == 0}
    scores = {name: values.cpu().double().numpy() for name, values in logits.items()}
    figures = {}
    for measure in ("logit", "probability"):
        values = {name: own if measure == "logit" else 1 / (1 + np.exp(-own)) for name, own in scores.items()}
        values["drift"] = values["long_tailed"] - values["balanced"]
        for (name, own), (kind, where) in itertools.product(values.items(), present.items()):
            figures[f"{measure}_{name}_{kind}"] = np.where(where, own, np.nan)
    return figures


def _place(values: np.ndarray, pairs: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> np.ndarray:
    placed = np.full(shape, np.nan)
    if pairs:
        rows, columns = zip(*pairs, strict=True)
        placed[list(rows), list(columns)] = values
    return placed


def _summaries(means: StreamedMeans) -> dict[str, Summary]:
    names = [*CORRELATIONS]
    for kind in ATTENTIONS:
        names += [f"attention_{kind}_{model}" for model in MODELS]
    for measure, name in itertools.product(("logit", "probability"), (*MODELS, "drift")):
        names += [f"{measure}_{name}_{sign}" for sign in ("positive", "negative")]
    found = {name: means.summarize(name) for name in names}
    rise = means.means("attention_contrast_balanced")[0]
    for kind, figure in zip(ATTENTIONS, ATTENUATIONS, strict=True):
        of_long_tailed, of_balanced = (f"attention_{kind}_{model}" for model in ("long_tailed", "balanced"))
        # NaN, of a class without images, is no more usable than attention that is almost nothing.
        usable = means.means(of_balanced)[0] > LEAST_ATTENTION * rise
        found[figure] = means.summarize_loss(of_long_tailed, of_balanced, usable)
    return found


__all__ = ["ATTENUATIONS", "CORRELATIONS", "MODELS", "StudyResult", "compare_networks"]
