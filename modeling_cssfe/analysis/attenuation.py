# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""How much weaker one network attends than another, where that other attends most.

Source: CSSFE (ICCV 2025), Figure 3b: over the top 50 % of the attention values, the attenuation of a network trained on
a long tail against one trained on balanced data grows from head to tail. The paper prints no formula; what is built is

    attenuation of a class = 1 - sum over its images of mean(A_lt[top]) / sum over its images of mean(A_bal[top])

where `A` is a network's map of the class on an image that shows it, and `top` the half of the positions with the
highest values of the balanced network's map. Maps that are halved everywhere give .5, equal maps 0, and a map that is
stronger than the balanced one a negative value. It is a ratio of sums and not a mean of ratios because a map that is
almost 0 in one image would otherwise outweigh all others.

What counts as attention is stated, because a class activation map may be negative and is known up to a class's bias:

- `contrast`: the map minus its own lowest value: how far it rises, whatever the bias.
- `positive`: the map's values, negative ones as 0; for net0 in the logit's own unit. It moves with a class's bias, and
  is almost nothing where a network gives the class low scores everywhere, as one that saw few images does.

Neither is divided by the map's own maximum, which would remove what is to be measured. So both networks must be of one
kind (architecture, loss and head), as their units are those of the logits.
"""

import torch


ATTENTIONS = ("contrast", "positive")
TOP_SHARE = 0.5


def attention(maps: torch.Tensor, kind: str) -> torch.Tensor:
    """Attention of maps.

    Args:
        maps: `(P, L)`, a map a row.
        kind: `contrast` or `positive`, see the module's text.

    Returns:
        `(P, L)` fp64, >= 0.

    Raises:
        ValueError: Unknown kind.
    """
    maps = maps.double()
    if kind == "positive":
        return maps.clamp(min=0)
    if kind == "contrast":
        return maps - maps.amin(dim=-1, keepdim=True)
    raise ValueError(f"unknown attention {kind!r}; choose one of {', '.join(ATTENTIONS)}.")


def top_attention(
    reference: torch.Tensor, maps: torch.Tensor, kind: str = "contrast", share: float = TOP_SHARE
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean attention of both maps over the positions where the reference is highest.

    Args:
        reference: `(P, L)` maps that decide on the positions.
        maps: `(P, L)` maps of the same images and classes.
        kind: `contrast` or `positive`.
        share: Share of the positions, in (0, 1]; of an odd number, one more than the half. Among equal values the
            first positions are taken.

    Returns:
        `(P,)` means of the reference and of the maps, fp64.

    Raises:
        ValueError: Shapes differ, or an option is out of range.
    """
    if reference.shape != maps.shape:
        raise ValueError(
            f"cannot compare maps of the shapes {tuple(reference.shape)} and {tuple(maps.shape)}; resize one of them."
        )
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; give a part of the positions, in (0, 1].")
    number = -int(-share * reference.shape[-1] // 1)
    chosen = reference.sort(dim=-1, descending=True, stable=True).indices[:, :number]
    found = [attention(values, kind).gather(-1, chosen).mean(dim=-1) for values in (reference, maps)]
    return found[0], found[1]


__all__ = ["ATTENTIONS", "TOP_SHARE", "attention", "top_attention"]
