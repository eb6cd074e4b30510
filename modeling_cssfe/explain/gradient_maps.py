# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Grad-CAM, Grad-CAM++ and LayerCAM of several labels of several images in one pass.

Why not through pytorch-grad-cam, the well-kept library of these methods: it differentiates one label an image in a
pass, so K labels cost K forward and K backward passes through the whole network; it gives maps only after scaling each
to [0, 1], which loses what a comparison of two models is about; its record of a layer on the CPU is written over by an
in-place ReLU behind that layer; and it brings OpenCV. Here one forward pass starts to record at the layer, and one
batched backward pass gives the gradients of all labels. The tests compare with that library: equal to 1e-5 on the same
layer.

Axis letters: B images, K labels, D channels, H x W positions of the layer.
"""

import difflib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


DEFAULT_LAYER = "cssfe.feature_projection"  # its output is F, the last feature map, in every architecture
_BACKBONE = "cssfe.backbone.timm_model."
_SPATIAL = ("cssfe.backbone", DEFAULT_LAYER, "cssfe.class_activation")
# Entries of the gradients that are held at once; more labels than that allows are taken in several backward passes.
GRADIENT_ENTRIES = 2**26
_MOST_PREFIX_TOKENS = 16


def grad_cam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017, Eq. 1 and 2): channels weighted by their mean gradient, then ReLU.

    Args:
        activations: `(B, D, H, W)`.
        gradients: `(K, B, D, H, W)` of each label's logit.

    Returns:
        `(B, K, H, W)`, >= 0, not scaled.
    """
    return torch.einsum("kbd,bdhw->bkhw", gradients.mean(dim=(3, 4)), activations).relu()


def grad_cam_plus_plus(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """Grad-CAM++ (Chattopadhay et al., WACV 2018, Eq. 19 with the exponential of the logit): see `grad_cam`.

    With `Y = exp(S)` the second and third derivatives are powers of the gradient g of S, and alpha becomes
    `g^2 / (2 g^2 + sum(A) g^3) = 1 / (2 + sum(A) g)`. Written so it needs no small constant in the denominator;
    pytorch-grad-cam adds 1e-6 to the first form, which is more than g^2 itself for gradients below 1e-3. The constant
    factor exp(S) of a map is left out.
    """
    denominator = 2 + activations.sum(dim=(2, 3), keepdim=True) * gradients
    alpha = torch.where(denominator == 0, 0.0, 1 / denominator)
    return torch.einsum("kbd,bdhw->bkhw", (gradients.relu() * alpha).sum(dim=(3, 4)), activations).relu()


def layer_cam(activations: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
    """LayerCAM (Jiang et al., IEEE TIP 2021, Eq. 6 and 7): each position weighted by its own positive gradient.

    Takes and returns what `grad_cam` does; it stays sharp at early layers.
    """
    return torch.stack([(gradient.relu() * activations).sum(dim=1).relu() for gradient in gradients], dim=1)


def find_layer(model: nn.Module, layer: "str | nn.Module | None") -> tuple[str, nn.Module]:
    """A layer of a model by name.

    Args:
        model: The model.
        layer: A name of `model.named_modules()`, or for CSSFE one of the timm architecture (`"layer3"`); a module of
            the model; `None` for the last feature map F of a CSSFE model.

    Returns:
        The full name and the module.

    Raises:
        ValueError: There is no such layer (the nearest is suggested), or it has no positions.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, nn.Module):
        names = [name for name, module in modules.items() if module is layer]
        if not names:
            raise ValueError(f"the layer {type(layer).__name__} is none of the model's; give one of its modules.")
        name = names[0]
    elif layer is None:
        name = DEFAULT_LAYER
        if name not in modules:
            raise ValueError(f"{type(model).__name__} is no CSSFE model; name the layer to explain.")
    else:
        name = layer if layer in modules else _BACKBONE + layer
    if name not in modules or not name:
        known = [known.removeprefix(_BACKBONE) for known in modules if known]
        near = difflib.get_close_matches(str(layer), known, n=3)
        mend = f"did you mean {' or '.join(map(repr, near))}?" if near else f"it has {', '.join(known[:12])}, ..."
        raise ValueError(f"the model has no layer {layer!r}; {mend}")
    if DEFAULT_LAYER in modules and not name.startswith(_SPATIAL):
        raise ValueError(f"layer {name!r} has no positions in the image; choose one of the backbone, such as 'layer4'.")
    return name, modules[name]


def logits_of(output: Any) -> torch.Tensor:
    """The `(B, C)` logits of a model's output, which may be a tensor itself."""
    return output if isinstance(output, torch.Tensor) else output.logits


def run_to_layer(
    model: nn.Module, pixel_values: torch.Tensor, layer: "str | nn.Module | None"
) -> tuple[Any, torch.Tensor]:
    """Run a model, recording from a layer on.

    Nothing before the layer is recorded, so that memory is that of a forward pass and of the layers behind it.

    Args:
        model: In evaluation mode.
        pixel_values: `(B, channels, height, width)`.
        layer: See `find_layer`.

    Returns:
        The model's output and the layer's output, of which it is a function.

    Raises:
        ValueError: The layer is not reached, is reached more than once, or returns no tensor.
    """
    name, module = find_layer(model, layer)
    caught: list[torch.Tensor] = []

    def catch(_module, _inputs, output):
        if caught or not isinstance(output, torch.Tensor):
            what = "runs more than once in a pass" if caught else f"returns {type(output).__name__}, not a tensor"
            raise ValueError(f"layer {name!r} {what}; choose another one.")
        torch.set_grad_enabled(True)  # until the surrounding no_grad ends
        caught.append(output.detach().requires_grad_())
        return caught[0].clone()  # what follows may write in place

    handle = module.register_forward_hook(catch)
    try:
        with torch.inference_mode(False), torch.no_grad(), _no_recomputation(model):
            output = model(pixel_values.clone() if pixel_values.is_inference() else pixel_values)
    finally:
        handle.remove()
    if not caught or not logits_of(output).requires_grad:
        raise ValueError(f"the logits do not depend on the layer {name!r}; choose another one.")
    return output, caught[0]


def compute_gradient_maps(
    logits: torch.Tensor,
    activations: torch.Tensor,
    targets: torch.Tensor,
    image_size: tuple[int, int],
    methods: Sequence[Callable[[torch.Tensor, torch.Tensor], torch.Tensor]],
) -> list[torch.Tensor]:
    """Maps of labels by methods that weigh a layer's activations with gradients.

    Args:
        logits: `(B, C)`, a function of `activations`.
        activations: The layer's output: `(B, D, H, W)`, `(B, H, W, D)` or `(B, tokens, D)`.
        targets: `(B, K)` class ids.
        image_size: Height and width of the images in pixels.
        methods: Functions such as `grad_cam`.

    Returns:
        For each method `(B, K, H, W)`, fp32, on the device of `logits`.

    Raises:
        ValueError: The activations have no positions.
    """
    arrange = _find_arrangement(tuple(activations.shape), image_size)
    arranged = arrange(activations.detach().float())
    num_labels = targets.shape[1]
    step = max(1, GRADIENT_ENTRIES // max(1, activations.numel()))
    maps: list[list[torch.Tensor]] = [[] for _ in methods]
    for start in range(0, num_labels, step):
        some = targets[:, start : start + step]
        # (K, B, C): a 1 at the label that the row differentiates; images do not touch each other.
        seeds = logits.new_zeros(some.shape[1], *logits.shape).scatter_(2, some.T[..., None], 1)
        gradients = arrange(_batched_gradients(logits, activations, seeds).float())
        with torch.autocast(logits.device.type, enabled=False):  # sums over channels in fp32
            for found, method in zip(maps, methods, strict=True):
                found.append(method(arranged, gradients))
    return [torch.cat(found, dim=1) for found in maps]


def _batched_gradients(logits: torch.Tensor, activations: torch.Tensor, seeds: torch.Tensor) -> torch.Tensor:
    if len(seeds) > 1:
        try:
            return torch.autograd.grad(logits, activations, seeds, retain_graph=True, is_grads_batched=True)[0]
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            pass  # an operation that torch cannot batch: one label after the other gives the same numbers
    return torch.stack([torch.autograd.grad(logits, activations, seed, retain_graph=True)[0] for seed in seeds])


def _find_arrangement(shape: tuple[int, ...], image_size: tuple[int, int]) -> Callable[[torch.Tensor], torch.Tensor]:
    """How to bring a layer's output, with any axes in front, to `(..., D, H, W)`."""
    height, width = image_size

    def mismatch(rows: int, columns: int) -> float:
        # 0 where a position covers a square of the image
        return abs(height * columns / (width * rows) - 1)

    if len(shape) == 4:
        if mismatch(shape[1], shape[2]) < mismatch(shape[2], shape[3]):
            # (..., H, W, D) -> (..., D, H, W)
            return lambda tensor: tensor.movedim(-1, -3)
        return lambda tensor: tensor
    if len(shape) == 3:
        for prefix in range(min(_MOST_PREFIX_TOKENS, shape[1] - 1) + 1):
            tokens = shape[1] - prefix
            rows = max(1, round((tokens * height / width) ** 0.5))
            columns = tokens // rows
            if rows * columns == tokens and mismatch(rows, columns) < 0.1:
                # (..., tokens, D) -> (..., D, H, W), without class and register tokens
                return lambda tensor: tensor[..., prefix:, :].transpose(-1, -2).unflatten(-1, (rows, columns))
    raise ValueError(
        f"a layer with the output {shape} has no positions in an image of {height}x{width} px; choose one whose output "
        "is a map or a grid of tokens."
    )


@contextmanager
def evaluation_mode(model: nn.Module):
    """Evaluation mode inside, and every module's own mode again afterwards."""
    trained = [module for module in model.modules() if module.training]
    if not trained:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


@contextmanager
def _no_recomputation(model: nn.Module):
    """Gradient checkpointing off inside: a layer in a part that is run again has no record to start at."""
    switched = [
        (module, name)
        for module in model.modules()
        for name in ("grad_checkpointing", "gradient_checkpointing")  # timm's and transformers' own
        if getattr(module, name, False) is True
    ]
    try:
        for module, name in switched:
            setattr(module, name, False)
        yield
    finally:
        for module, name in switched:
            setattr(module, name, True)


__all__ = [
    "DEFAULT_LAYER",
    "compute_gradient_maps",
    "evaluation_mode",
    "find_layer",
    "grad_cam",
    "grad_cam_plus_plus",
    "layer_cam",
    "logits_of",
    "run_to_layer",
]
