# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Where a run that was stopped goes on."""

import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list

from .checkpoint import STATE, verify_checkpoint
from .training_state import check_identity, restore_state


if TYPE_CHECKING:
    from .loop import Run

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


def resume_run(run: "Run", resume: str | os.PathLike) -> None:
    """Bring a prepared run to a checkpoint, and its folder too.

    Args:
        run: Prepared, with its observers.
        resume: `"auto"` for the newest intact checkpoint of the run's folder, and the beginning if there is none;
            `"never"` for the beginning; or a checkpoint's folder.

    Raises:
        DamagedCheckpointError: The checkpoint that was named is damaged.
        ValueError: The checkpoint is of another recipe, of other data, or of another number of processes.
        SavingError: The run's folder cannot be written.
    """
    if resume == "never":
        return
    path, state = _find(run, resume)
    if state is not None:
        check_identity(run.identity, state["identity"], repr(os.fspath(path)))
    if run.accelerator.is_main_process:
        run.checkpoints.forget_after(path)
        run.folder.rewind("" if state is None else state["log"])
    if state is not None:
        restore_state(run, path, state)
        logger.info("Resumed from %s.", path)
    run.accelerator.wait_for_everyone()


def _find(run: "Run", resume: str | os.PathLike) -> tuple[Path, dict[str, Any] | None]:
    """The checkpoint and its state; one process looks, so that all find the same."""
    found: list[Any] = [None, None]
    if run.accelerator.is_main_process:
        try:
            if resume == "auto":
                path, problems = run.checkpoints.newest()
                where = "the beginning" if path is None else path.name
                for problem in problems:
                    logger.warning("%s The run goes on from %s.", problem[:1].upper() + problem[1:], where)
                found[0] = None if path is None else str(path)
            else:
                verify_checkpoint(resume)
                found[0] = os.fspath(resume)
        except ValueError as error:
            found[1] = error
    if run.accelerator.num_processes > 1:
        broadcast_object_list(found)
    if found[1] is not None:
        raise found[1]
    if found[0] is None:
        return Path(""), None
    path = Path(found[0])
    return path, json.loads((path / STATE).read_text(encoding="utf-8"))


__all__ = ["check_resume", "resume_run"]
