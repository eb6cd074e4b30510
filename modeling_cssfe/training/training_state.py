# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What of a run goes into a checkpoint, and how it comes back.

Weights, moving average, the best epoch's weights, optimizer and random generators are tensors; schedule, position,
loss so far, observers and the log are plain values. The order and the augmentation of the images need no state of their
own: they follow from seed, epoch and position. Processes differ in their random generators, their losses and their
position in a stream alone, so one process writes for all of them. All must see the folder when the run is resumed.
"""

import dataclasses
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from ..data.streaming import StreamingLoader
from .checkpoint import load_tensors
from .divergence import WHAT_TO_TRY


if TYPE_CHECKING:
    from .run import Run

# Keys of a recipe that a resumed run may have otherwise: its results do not depend on them.
WITHOUT_EFFECT = frozenset(
    {"num_workers", "checkpoint_every_epochs", "checkpoint_every_steps", "checkpoints_kept", "trackers", "published"}
)


def flat_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What of a recipe its results depend on; the keys of a first phase as `first_phase.KEY`."""
    kept = {key: value for key, value in recipe.items() if key not in WITHOUT_EFFECT and key != "first_phase"}
    first = (recipe.get("first_phase") or {}).items()
    return kept | {f"first_phase.{key}": value for key, value in first if key not in WITHOUT_EFFECT}


def run_identity(run: "Run") -> dict[str, Any]:
    """What a run and the checkpoint that it goes on from must have in common: flat, plain values."""
    own = flat_recipe(dataclasses.asdict(run.recipe))
    identity = {f"recipe.{key}": value for key, value in own.items()}
    if isinstance(run.train_loader, StreamingLoader):  # each worker has its part of a stream
        identity["loader processes of the stream"] = run.train_loader.num_workers
    identity |= {"number of processes": run.accelerator.num_processes, "precision": run.accelerator.mixed_precision}
    for name, fingerprint in run.data.fingerprint.items():
        identity[f"images and labels of {name}"] = fingerprint
    return json.loads(json.dumps(identity))


def check_identity(found: Mapping[str, Any], wanted: Mapping[str, Any], source: str) -> None:
    """Check that this run is the one that a checkpoint is of.

    Args:
        found: Of this run.
        wanted: Of the checkpoint.
        source: What `wanted` comes from, for the error.

    Raises:
        ValueError: It is not; all keys that differ are named.
    """
    differing = [key for key in sorted({*found, *wanted}) if found.get(key) != wanted.get(key)]
    if differing:
        shown = ", ".join(f"{key} ({_short(found.get(key))}, was {_short(wanted.get(key))})" for key in differing)
        raise ValueError(
            f"cannot resume from {source}, which is of another run: {shown}; give what it had, or start in another "
            "output_dir."
        )


def full_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return a model's weights and buffers on the CPU, whole where processes have parts; all processes must call it."""
    state = model.state_dict()
    if any(hasattr(value, "full_tensor") for value in state.values()):
        state = {key: value.full_tensor() if hasattr(value, "full_tensor") else value for key, value in state.items()}
    return {key: value.detach().to("cpu", copy=True).contiguous() for key, value in state.items()}


def require_finite(state: Mapping[str, torch.Tensor], epoch: int, step: int) -> None:
    """Check the weights that an update has left: a gradient may overflow although its loss was finite.

    Raises:
        FloatingPointError: One holds a value that is not finite; it is named.
    """
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise FloatingPointError(
                f"{name} is not finite after epoch {epoch}, step {step}, although the losses were; {WHAT_TO_TRY}."
            )


def load_full_state(model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    """Put what `full_state` gave into a model, whose parameters may be spread over processes."""
    if not any(hasattr(value, "full_tensor") for value in model.state_dict().values()):
        model.load_state_dict(dict(state))
        return
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True))


def collect_state(run: "Run") -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Return the files of tensors and the plain state of a checkpoint; all processes must call it.

    The best epoch's weights are left out: see `Run.save_checkpoint`.

    Raises:
        FloatingPointError: A weight is not finite, so that nobody could go on from here.
    """
    optimizer_tensors, groups = _optimizer_state(run)
    tensors = {"model": full_state(run.model), "optimizer": optimizer_tensors, "processes": _states_of_processes(run)}
    require_finite(tensors["model"], run.epoch, run.step)
    if run.average is not None:
        tensors["average"] = full_state(run.average.module)
    state = {
        "identity": run.identity,
        "epoch": run.epoch,
        "phase": run.phase,
        "step": run.step,
        "updates": run.updates,
        "entry": run.entry,
        "stop_reason": run.stop_reason,
        "seconds": run.seconds,
        "best": {key: value for key, value in run.best.items() if key not in ("state", "test")},
        "optimizer": groups,
        "schedule": run.schedule.state_dict(),
        "scaler": None if run.accelerator.scaler is None else run.accelerator.scaler.state_dict(),
        "observers": {observer.name: observer.state_dict() for observer in run.observers if observer.name},
        "log": run.folder.read_log(),
    }
    return tensors, state


def restore_state(run: "Run", path: Path, state: Mapping[str, Any]) -> None:
    """Bring a prepared run to where a checkpoint is.

    Args:
        run: Prepared, of the same recipe and data; see `check_identity`.
        path: The checkpoint's folder.
        state: From `verify_checkpoint`.
    """
    load_full_state(run.model, load_tensors(path, "model"))
    if run.average is not None:
        load_full_state(run.average.module, load_tensors(path, "average"))
    _load_optimizer_state(run, load_tensors(path, "optimizer"), state["optimizer"])
    run.schedule.load_state_dict(state["schedule"])
    if run.accelerator.scaler is not None and state["scaler"] is not None:
        run.accelerator.scaler.load_state_dict(state["scaler"])
    for key in ("epoch", "phase", "step", "updates", "entry", "stop_reason"):
        setattr(run, key, state[key])
    run.seconds_before = state["seconds"]
    run.best |= state["best"]
    if run.best["epoch"] is not None:
        run.best["state"] = load_tensors(path, "best")
        run.best_file = (run.best["epoch"], path / "best.safetensors")
    for observer in run.observers:
        if observer.name in state["observers"]:
            observer.load_state_dict(state["observers"][observer.name])
    _set_state_of_process(run, load_tensors(path, "processes"))


def _optimizer_state(run: "Run") -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Split the state into tensors named `parameter.value` (numbers, as the optimizer has them) and groups."""
    content = run.optimizer.state_dict()
    tensors = {}
    for index, values in content["state"].items():
        for name, value in values.items():
            # Every optimizer of the recipes keeps nothing but tensors; SGD's momentum is None before its first step.
            if value is not None:
                value = value.full_tensor() if hasattr(value, "full_tensor") else value
                tensors[f"{index}.{name}"] = value.detach().to("cpu", copy=True).contiguous()
    return tensors, content["param_groups"]


def _load_optimizer_state(run: "Run", tensors: Mapping[str, torch.Tensor], groups: list[dict[str, Any]]) -> None:
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)].detach()
        if value.shape == parameter.shape and value.ndim:
            value = _like(value, parameter)
        state.setdefault(int(index), {})[name] = value
    # JSON has no tuples.
    groups = [{key: tuple(value) if key == "betas" else value for key, value in group.items()} for group in groups]
    run.optimizer.load_state_dict({"state": state, "param_groups": groups})


def _like(value: torch.Tensor, parameter: Any) -> torch.Tensor:
    """Spread and lay out a tensor as its parameter is; fused kernels expect both in one memory format."""
    if hasattr(parameter, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _states_of_processes(run: "Run") -> dict[str, torch.Tensor]:
    """Return what each process has of its own, a row a process: the global random generators, and its losses."""
    _, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    _, keys, position, has_gauss, cached = numpy_state
    states = {
        "python": torch.tensor(words),
        "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        "numpy": torch.tensor([*keys.tolist(), position]),
        "numpy_gauss": torch.tensor([has_gauss, cached], dtype=torch.float64),
        "torch": torch.get_rng_state(),
        "loss_sum": run.loss_sum,
    }
    device = run.accelerator.device
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    if isinstance(run.train_loader, StreamingLoader):
        states["stream"] = torch.tensor(run.train_loader.state_dict()["batches"])
    return {key: run.accelerator.gather(value[None].to(device)).cpu() for key, value in states.items()}


def _set_state_of_process(run: "Run", states: Mapping[str, torch.Tensor]) -> None:
    own = {key: value[run.accelerator.process_index] for key, value in states.items()}
    has_gauss, gauss = own["python_gauss"].tolist()
    random.setstate((3, tuple(own["python"].tolist()), gauss if has_gauss else None))
    *keys, position = own["numpy"].tolist()
    has_gauss, cached = own["numpy_gauss"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), position, int(has_gauss), cached))
    torch.set_rng_state(own["torch"].clone())
    run.loss_sum = own["loss_sum"].to(run.accelerator.device)
    if run.accelerator.device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"].clone(), run.accelerator.device)
    if isinstance(run.train_loader, StreamingLoader):
        place = run.train_loader.state_dict() | {"epoch": run.epoch - 1, "batches": own["stream"].tolist()}
        if run.phase == "step":
            run.train_loader.load_state_dict(place)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


__all__ = [
    "WITHOUT_EFFECT",
    "check_identity",
    "collect_state",
    "full_state",
    "load_full_state",
    "restore_state",
    "run_identity",
]
