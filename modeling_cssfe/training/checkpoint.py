# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are whole or not there, and that say so themselves.

A run's `checkpoints/` holds one folder a checkpoint, `update-00000120-step` for example: after 120 updates, within an
epoch. `-trained` stands for the end of an epoch's training, before its evaluation, and `-done` for the end of an epoch.
Tensors lie in safetensors files and everything else in `state.json`; `manifest.json` has the size and the SHA-256 of
each file. Nothing in it can carry code, which is why Accelerate's `save_state` is not used: it pickles the states of
optimizers, schedules and random generators.

A checkpoint is written under a temporary name, brought to the disk (fsync), and renamed. So a run that is killed, or
whose disk is full, leaves the checkpoints before it as they were.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..common.files import named_errors


FORMAT = 1
# Where within an epoch a checkpoint lies, in this order.
PHASES = ("step", "trained", "done")
MANIFEST, STATE = "manifest.json", "state.json"
_NAME = re.compile(r"update-(\d{8,})-(step|trained|done)")
_NO_PLACE = (-1, -1)


class DamagedCheckpointError(ValueError):
    """A checkpoint is not what its manifest says; the message is one line."""


class CheckpointStore:
    """The checkpoints of a run.

    Args:
        folder: The run's `checkpoints` folder; made at the first `save`.
        keep: How many to keep, >= 1; the oldest go first.

    Raises:
        ValueError: `keep` is below 1.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 2):
        if keep < 1:
            raise ValueError(f"checkpoints_kept is {keep}: give a number >= 1.")
        self.folder = Path(folder)
        self.keep = keep

    def save(
        self,
        updates: int,
        phase: str,
        tensors: Mapping[str, Mapping[str, torch.Tensor]],
        state: Mapping[str, Any],
        reuse: Mapping[str, Path] | None = None,
    ) -> Path:
        """Write a checkpoint, whole or not at all, and remove the ones that are not kept.

        Args:
            updates: Updates so far.
            phase: One of `PHASES`.
            tensors: Name of a file without its ending -> its tensors.
            state: Plain values, for JSON.
            reuse: Name of a file without its ending -> the same file in an older checkpoint, which is linked and not
                written again.

        Returns:
            The checkpoint's folder.

        Raises:
            SavingError: It cannot be written; the older checkpoints are as they were.
        """
        target = self.folder / f"update-{updates:08d}-{phase}"
        with named_errors(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=self.folder))
            try:
                for name, source in (reuse or {}).items():
                    _link_or_copy(source, temporary / f"{name}.safetensors")
                for name, content in tensors.items():
                    save_file(dict(content), temporary / f"{name}.safetensors")
                (temporary / STATE).write_text(json.dumps({"format": FORMAT, **state}), encoding="utf-8")
                files = sorted(temporary.iterdir())
                manifest = {file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in files}
                (temporary / MANIFEST).write_text(json.dumps({"files": manifest}, indent=1), encoding="utf-8")
                for file in (*files, temporary / MANIFEST, temporary):
                    _to_disk(file)
                if target.exists():  # a run that was resumed from before it
                    shutil.rmtree(target)
                os.replace(temporary, target)
                _to_disk(self.folder)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        for old in self.folders()[: -self.keep]:
            remove_folder(old)
        return target

    def folders(self) -> list[Path]:
        """Return the checkpoints' folders, oldest first, damaged ones included."""
        if not self.folder.is_dir():
            return []
        return sorted((path for path in self.folder.iterdir() if _place(path) != _NO_PLACE), key=_place)

    def newest(self) -> tuple[Path | None, list[str]]:
        """Return the newest intact checkpoint (`None` if there is none) and a line for each damaged one after it."""
        problems = []
        for path in reversed(self.folders()):
            try:
                verify_checkpoint(path)
            except DamagedCheckpointError as error:
                problems.append(str(error))
            else:
                return path, problems
        return None, problems

    def forget_after(self, path: Path) -> None:
        """Remove the checkpoints after this one, which is where the run goes on, and what a killed run left over.

        Args:
            path: A checkpoint, also of another folder; of any other path all are removed.
        """
        for other in self.folders():
            if _place(other) > _place(path):
                remove_folder(other)
        self.tidy()

    def tidy(self) -> None:
        """Remove what a killed run was writing or removing."""
        if self.folder.is_dir():
            for left in self.folder.glob(".saving-*"):
                shutil.rmtree(left, ignore_errors=True)

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self.folders():
            remove_folder(path)
        self.tidy()


def verify_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Check a checkpoint against its manifest and return its state.

    Raises:
        DamagedCheckpointError: A file is missing, has another size or another content, or the format is not this one.
    """
    path = Path(path)
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, expected in files.items():
            size = (path / name).stat().st_size
            if size != expected["bytes"]:
                raise _damaged(path, f"{name} has {size} bytes instead of {expected['bytes']}")
            if _sha256(path / name) != expected["sha256"]:
                raise _damaged(path, f"the SHA-256 of {name} is not the manifest's")
        if STATE not in files:
            raise _damaged(path, f"it has no {STATE}")
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise _damaged(path, f"it has no {Path(error.filename).name}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DamagedCheckpointError):
            raise
        raise _damaged(path, f"its manifest or state cannot be read ({type(error).__name__})") from error
    if state.get("format") != FORMAT:
        raise _damaged(path, f"its format is {state.get('format')!r}, this version reads {FORMAT}")
    return state


def load_tensors(path: str | os.PathLike, name: str) -> dict[str, torch.Tensor]:
    """Read one of a checkpoint's files of tensors, on the CPU; empty if the checkpoint has none of that name."""
    file = Path(path) / f"{name}.safetensors"
    if not file.is_file():
        return {}
    try:
        # Copies: tensors mapped from a file may lie at addresses on which matrix products round differently.
        return {key: value.clone() for key, value in load_file(file).items()}
    except SafetensorError as error:
        raise _damaged(Path(path), f"{file.name} cannot be read") from error


def remove_folder(path: Path) -> None:
    """Remove a checkpoint so that it is never seen half removed."""
    gone = path.with_name(f".saving-removed-{path.name}")
    with contextlib.suppress(OSError):  # it may stay: what counts is that it has lost its name
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def _place(path: Path) -> tuple[int, int]:
    """Updates and phase of a checkpoint, by its name; what is none comes before all that are."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), PHASES.index(match[2])) if match else _NO_PLACE


def _damaged(path: Path, how: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(f"the checkpoint {os.fspath(path)!r} is damaged: {how}.")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        if hasattr(hashlib, "file_digest"):  # Python 3.11
            return hashlib.file_digest(file, "sha256").hexdigest()
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return digest.hexdigest()


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


__all__ = ["PHASES", "CheckpointStore", "DamagedCheckpointError", "load_tensors", "verify_checkpoint"]
