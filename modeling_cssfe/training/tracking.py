# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""TensorBoard and trackio, through Accelerate's trackers.

Both write to this machine only. TensorBoard's files lie in the run's folder, under `tensorboard/`; trackio keeps its
data base in its own folder (`TRACKIO_DIR`), where `trackio show` finds it, in the project `cssfe`, under the name of
the run's folder (of a grid's run: `RECIPE/seed0`).
"""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from ..recipes.checks import tracker_problems
from .run_folder import FIRST_PHASE


_PROJECT = "cssfe"
# Where trackio would send what it is told; a run stays on its machine.
_REMOTE_VARIABLES = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")


def tracker_options(trackers: Sequence[str], output_dir: str | os.PathLike) -> dict[str, Any]:
    """Arguments for `Accelerator` that a recipe's trackers need.

    Args:
        trackers: From `TRACKERS`.
        output_dir: The run's folder.

    Raises:
        ValueError: A tracker is unknown, its package is not installed, or trackio is set up to send data elsewhere.
    """
    problems = tracker_problems(trackers)
    if problems:
        raise ValueError("; ".join(problems) + ".")
    for name in trackers:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"tracker {name!r} is not installed; pip install 'cssfe[tracking]', or leave it out.")
    remote = [name for name in _REMOTE_VARIABLES if os.environ.get(name)]
    if "trackio" in trackers and remote:
        raise ValueError(f"{remote[0]} is set, but runs are tracked on this machine only; unset it.")
    if not trackers:
        return {}
    return {
        "log_with": list(trackers),
        "project_config": ProjectConfiguration(
            project_dir=os.fspath(output_dir), logging_dir=os.path.join(os.fspath(output_dir), "tensorboard")
        ),
    }


def start_trackers(
    accelerator: Accelerator, trackers: Sequence[str], output_dir: str | os.PathLike, first_step: int
) -> None:
    """Start the trackers of an `Accelerator` that was made with `tracker_options`.

    Args:
        accelerator: Its trackers are started.
        trackers: From `TRACKERS`.
        output_dir: The run's folder, which must exist.
        first_step: Step of the first numbers to come. What TensorBoard has of it and later is of a run that was killed
            after its last checkpoint, and is hidden; trackio shows both.
    """
    if not trackers:
        return
    accelerator.init_trackers(
        _PROJECT,
        init_kwargs={
            "tensorboard": {"purge_step": first_step} if first_step > 1 else {},
            # A run that is resumed goes on under its name.
            "trackio": {
                "name": run_name(output_dir),
                "resume": "allow",
                "embed": False,
                "auto_log_gpu": False,
                "auto_log_cpu": False,
            },
        },
    )


def run_name(output_dir: str | os.PathLike) -> str:
    """Name of a run: its folder's, after the folders that tell it from others where it is a grid's or a first phase.

    >>> run_name("runs/grid/lt_voc_net3/seed0/first_phase")
    'lt_voc_net3/seed0/first_phase'
    """
    parts = Path(output_dir).resolve().parts
    first = len(parts) - 1
    while first > 1 and (parts[first] == FIRST_PHASE or re.fullmatch(r"seed\d+", parts[first])):
        first -= 1
    return "/".join(parts[first:])


def flat_numbers(entry: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a nested log entry, as `{"a/b": number}`; everything else is left out."""
    numbers: dict[str, float] = {}
    for key, value in entry.items():
        if isinstance(value, Mapping):
            numbers |= flat_numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = value
    return numbers


__all__ = ["flat_numbers", "run_name", "start_trackers", "tracker_options"]
