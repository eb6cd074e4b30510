# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Where a run that was stopped goes on."""

import dataclasses
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..recipes import Recipe
from .checkpoint import STATE, CheckpointStore, verify_checkpoint
from .training_state import check_identity, flat_recipe, restore_state


if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger(__name__)


def check_resume(resume: str | os.PathLike) -> None:
    """Check the option before anything is loaded.

    Raises:
        ValueError: Neither `"auto"` nor `"never"` nor a folder.
    """
    if resume not in ("auto", "never") and not Path(resume).is_dir():
        raise ValueError(
            f"resume is {os.fspath(resume)!r}: give auto, never, or a checkpoint's folder, such as "
            "RUN/checkpoints/update-00000120-step."
        )


def find_checkpoint(resume: str | os.PathLike, checkpoints: CheckpointStore, accelerator: Accelerator) -> Path | None:
    """The checkpoint to go on from, `None` for the beginning; one process looks, so that all find the same.

    Args:
        resume: `"auto"` for the newest intact checkpoint of the run's folder, and the beginning if there is none;
            `"never"` for the beginning; or a checkpoint's folder.
        checkpoints: Of the run's folder.
        accelerator: Of the run.

    Raises:
        DamagedCheckpointError: The checkpoint that was named is damaged.
    """
    if resume == "never":
        return None
    found: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            if resume == "auto":
                path, problems = checkpoints.newest()
                where = "the beginning" if path is None else path.name
                for problem in problems:
                    logger.warning("%s The run goes on from %s.", problem[:1].upper() + problem[1:], where)
                found[0] = None if path is None else str(path)
            else:
                verify_checkpoint(resume)
                found[0] = os.fspath(resume)
        except ValueError as error:
            found[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    return None if found[0] is None else Path(found[0])


def resume_run(run: "Run", path: Path | None) -> None:
    """Bring a prepared run to a checkpoint, and its folder too.

    Args:
        run: Prepared, with its observers.
        path: From `find_checkpoint`.

    Raises:
        ValueError: The checkpoint is of another recipe, of other data, or of another number of processes.
        SavingError: The run's folder cannot be written.
    """
    state: dict[str, Any] = {"log": ""}
    if path is not None:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        check_identity(run.identity, state["identity"], repr(os.fspath(path)))
    if run.accelerator.is_main_process:
        run.checkpoints.forget_after(path or Path())
        run.folder.rewind(state["log"])
    if path is not None:
        restore_state(run, path, state)
        logger.info("Resumed from %s.", path)
    run.accelerator.wait_for_everyone()


def require_same_recipe(recipe: Recipe, results: Mapping[str, Any], source: str) -> None:
    """Check that a finished run is the one that was asked for.

    Args:
        recipe: What was asked for.
        results: What the finished run wrote; keys that its version did not have had their defaults' meaning.
        source: The run's folder, for the error.

    Raises:
        ValueError: Its recipe is another one; all keys that differ are named.
    """
    asked = json.loads(json.dumps(dataclasses.asdict(recipe)))
    had = dataclasses.asdict(Recipe()) | results["recipe"]
    found, wanted = ({f"recipe.{key}": value for key, value in flat_recipe(of).items()} for of in (asked, had))
    check_identity(found, wanted, source)


__all__ = ["check_resume", "find_checkpoint", "require_same_recipe", "resume_run"]
