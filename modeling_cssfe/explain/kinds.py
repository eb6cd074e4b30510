# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Every kind of map by name, for any labels of any images in one pass.

| kind | what it is | sign |
|---|---|---|
| `cam` | the class activation map; for net0 its mean is the logit | both |
| `enhanced` | the map after enhancement (net2, net3) | both |
| `unmasked` | the map after enhancement by the same weights with the mask switched off | both |
| `grad_cam`, `grad_cam_plus_plus`, `layer_cam` | activations of a layer weighted by gradients of the logit | >= 0 |

`unmasked` shows what the mask keeps out of one trained model. It is no net2: the scores that a mask removes were never
trained, so a comparison of training with and without mask takes two models.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .gradient_maps import (
    compute_gradient_maps,
    evaluation_mode,
    grad_cam,
    grad_cam_plus_plus,
    layer_cam,
    logits_of,
    run_to_layer,
)


@dataclass(frozen=True)
class MapKind:
    """A kind of map.

    Args:
        name: As in `compute_maps`.
        title: Of a column of a figure.
        signed: Whether values below 0 occur.
        read: For maps that the model makes itself: `(model, output)` to `(B, C, H, W)`; `None` for others.
        weigh: For maps by gradients: `(activations, gradients)` to `(B, K, H, W)`; `None` for others.
    """

    name: str
    title: str
    signed: bool
    read: Callable[[Any, Any], torch.Tensor] | None = None
    weigh: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None


def _read_cam(model: Any, output: Any) -> torch.Tensor:
    return output.class_activation_maps


def _read_enhanced(model: Any, output: Any) -> torch.Tensor:
    return output.enhanced_activation_maps


def _read_unmasked(model: Any, output: Any) -> torch.Tensor:
    label_tokens, _ = model.cssfe.label_side()
    # Where all classes are of one group, the mask lets everything through.
    one_group = torch.zeros_like(model.cssfe.group_ranks)
    return model.cssfe.enhancement(output.class_activation_maps, label_tokens, one_group)[0]


MAP_KINDS: dict[str, MapKind] = {
    kind.name: kind
    for kind in (
        MapKind("cam", "class activation map", True, read=_read_cam),
        MapKind("enhanced", "after enhancement", True, read=_read_enhanced),
        MapKind("unmasked", "enhanced, mask off", True, read=_read_unmasked),
        MapKind("grad_cam", "Grad-CAM", False, weigh=grad_cam),
        MapKind("grad_cam_plus_plus", "Grad-CAM++", False, weigh=grad_cam_plus_plus),
        MapKind("layer_cam", "LayerCAM", False, weigh=layer_cam),
    )
}


@dataclass(frozen=True)
class ExplainedBatch:
    """Maps of a batch.

    Args:
        logits: `(B, C)`, fp32.
        targets: `(B, K)` class ids.
        maps: Kind -> `(B, K, H, W)`, fp32, at the resolution of its layer.
    """

    logits: torch.Tensor
    targets: torch.Tensor
    maps: dict[str, torch.Tensor]


def get_map_kind(name: str) -> MapKind:
    """A kind of map by name.

    Raises:
        ValueError: Unknown name; lists what exists and suggests the nearest.
    """
    if name not in MAP_KINDS:
        near = difflib.get_close_matches(str(name), MAP_KINDS, n=1)
        mend = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown kind of map {name!r}; {mend}There are {', '.join(MAP_KINDS)}.")
    return MAP_KINDS[name]


def check_layer_use(layer: "str | nn.Module | None", kinds: Sequence[str]) -> None:
    """Check that a chosen layer has an effect.

    Raises:
        ValueError: A layer is given, and no kind is by gradients.
    """
    if layer is not None and not any(get_map_kind(kind).weigh is not None for kind in kinds):
        raise ValueError(
            f"maps {', '.join(dict.fromkeys(kinds))} are the model's own and have no layer to choose; leave "
            "layer out, or ask for grad_cam, grad_cam_plus_plus or layer_cam."
        )


def available_kinds(model: nn.Module) -> list[str]:
    """Names of the kinds that a model has: those by gradients, and of its own what its ablation makes."""
    config: Any = getattr(model, "config", None)
    own: list[str] = []
    if hasattr(model, "cssfe"):
        own = ["cam"] + (["enhanced"] if config.uses_enhancement else []) + (["unmasked"] if config.uses_mask else [])
    return [name for name, kind in MAP_KINDS.items() if kind.weigh is not None or name in own]


def explain_batch(
    model: nn.Module,
    pixel_values: torch.Tensor,
    kinds: Sequence[str],
    targets: Sequence[int] | torch.Tensor | None = None,
    layer: "str | nn.Module | None" = None,
    top_k: int | None = None,
) -> ExplainedBatch:
    """Maps of several kinds from one forward pass, and for kinds by gradients one batched backward pass.

    The model is run in evaluation mode and left in the mode it had. Parameters get no gradient.

    Args:
        model: A CSSFE model; for kinds by gradients any module that returns logits or an output with `logits`.
        pixel_values: `(B, channels, height, width)`, normalised as the image processor does.
        kinds: Names of `MAP_KINDS`.
        targets: Class ids: K for all images alike, or `(B, K)`; `None` for `top_k`.
        layer: Of the kinds by gradients; see `find_layer`. `None` for the last feature map.
        top_k: Without `targets`, that many labels of highest score for each image; `None` for all classes.

    Returns:
        The maps. Values may be NaN where the images or the weights are.

    Raises:
        ValueError: An unknown kind or layer, a kind that the model does not have, class ids out of range, or a layer
            for kinds that have none.
    """
    found = [get_map_kind(name) for name in kinds]
    available = available_kinds(model)
    for kind in found:
        if kind.name not in available:
            what = getattr(getattr(model, "config", None), "ablation", type(model).__name__)
            raise ValueError(f"a model {what!r} has no maps {kind.name!r}; choose among {', '.join(available)}.")
    weighed = [kind for kind in found if kind.weigh is not None]
    check_layer_use(layer, kinds)
    with evaluation_mode(model):
        if weighed:
            output, activations = run_to_layer(model, pixel_values, layer)
        else:
            with torch.no_grad():
                output = model(pixel_values)
        logits = logits_of(output)
        chosen = _choose_targets(logits, targets, top_k)
        maps = {}
        for kind in found:
            if kind.read is not None:
                with torch.no_grad():
                    own = kind.read(model, output).detach().float()
                    maps[kind.name] = own.gather(1, chosen[..., None, None].expand(-1, -1, *own.shape[2:]))
        if weighed:
            size = (pixel_values.shape[-2], pixel_values.shape[-1])
            methods = [kind.weigh for kind in weighed if kind.weigh is not None]
            with torch.inference_mode(False):
                weighted = compute_gradient_maps(logits, activations, chosen, size, methods)
            maps.update(zip((kind.name for kind in weighed), weighted, strict=True))
    return ExplainedBatch(logits.detach().float(), chosen, {kind.name: maps[kind.name] for kind in found})


def compute_maps(
    model: nn.Module,
    pixel_values: torch.Tensor,
    kind: str,
    targets: Sequence[int] | torch.Tensor | None = None,
    layer: "str | nn.Module | None" = None,
) -> torch.Tensor:
    """Maps of one kind; see `explain_batch`.

    Args:
        model: A CSSFE model, or for kinds by gradients any classifier.
        pixel_values: `(B, channels, height, width)`.
        kind: A name of `MAP_KINDS`.
        targets: K class ids for all images, or `(B, K)`; `None` for all classes.
        layer: Of the kinds by gradients; `None` for the last feature map.

    Returns:
        `(B, K, H, W)`, fp32, without gradient, at the resolution of the layer.

    Raises:
        ValueError: See `explain_batch`.
    """
    return explain_batch(model, pixel_values, [kind], targets, layer).maps[kind]


def _choose_targets(
    logits: torch.Tensor, targets: Sequence[int] | torch.Tensor | None, top_k: int | None
) -> torch.Tensor:
    batch, num_classes = logits.shape
    if targets is None:
        if top_k is not None and top_k < 1:
            raise ValueError(f"top_k is {top_k}; give a number >= 1.")
        if top_k is None:
            return torch.arange(num_classes, device=logits.device).expand(batch, -1)
        return logits.detach().topk(min(top_k, num_classes), dim=1).indices
    chosen = torch.as_tensor(targets, device=logits.device)
    if chosen.dtype.is_floating_point or chosen.dtype == torch.bool or chosen.numel() == 0:
        raise ValueError(f"targets {targets!r} are no class ids; give at least one integer.")
    chosen = chosen.long()
    if chosen.ndim == 1:
        chosen = chosen.expand(batch, -1)
    if chosen.ndim != 2 or chosen.shape[0] != batch:
        raise ValueError(f"targets have the shape {tuple(chosen.shape)}; give K class ids, or ({batch}, K).")
    if not ((chosen >= 0) & (chosen < num_classes)).all():
        raise ValueError(f"targets {chosen.unique().tolist()} go beyond the classes 0 to {num_classes - 1}.")
    return chosen


__all__ = [
    "MAP_KINDS",
    "ExplainedBatch",
    "MapKind",
    "available_kinds",
    "check_layer_use",
    "compute_maps",
    "explain_batch",
    "get_map_kind",
]
