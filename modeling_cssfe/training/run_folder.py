# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The folder of a run, in which nothing is ever half-written."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..common.files import named_errors, share, write_whole


FIRST_PHASE = "first_phase"  # the folder of the first of two phases, in that of the run
_LOCK = ".lock"
# A run that was killed holds its folder for as long as its loader processes take to notice.
_SECONDS_OF_ORPHANS = 10


class RunFolder:
    """A run's output folder.

    Args:
        path: Folder that does not exist yet or is empty.
        resume: Whether it may also be the folder of a run that has not ended well.
        option: What the path was given as, for messages; `"output_dir"` is that of training, which can be resumed.

    Raises:
        ValueError: The path is a file, or the folder holds something that it may not.
    """

    def __init__(self, path: str | os.PathLike, resume: bool = False, option: str = "output_dir"):
        self.path = Path(path)
        self._resume = resume
        self._option = option
        self._refuse_what_is_foreign()

    def _refuse_what_is_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self._option} {os.fspath(self.path)!r} is a file; choose another folder.")
        names = {entry.name for entry in self.path.iterdir()} - {_LOCK} if self.path.is_dir() else set()
        is_run = bool(names & {"log.jsonl", "checkpoints", FIRST_PHASE})
        # What a run that was killed was writing tells nothing about whose folder this is.
        if self._resume and (is_run or all(name.startswith(".saving-") for name in names)):
            return
        if names:
            what = "another run" if is_run else "other files"
            mend = ", or go on with it by --resume auto" if is_run and self._option == "output_dir" else ""
            raise ValueError(
                f"{self._option} {os.fspath(self.path)!r} holds {what}; choose another folder or empty it first{mend}."
            )

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes out of the folder while the `with` block runs; if nothing is left in it then, it goes.

        Raises:
            ValueError: Another process trains in it, or has done so in the meantime.
            SavingError: The folder cannot be made.
        """
        is_new = not self.path.exists()
        with named_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock = FileLock(self.path / _LOCK).acquire(timeout=_SECONDS_OF_ORPHANS)
            except Timeout:
                raise ValueError(
                    f"another process trains in output_dir {os.fspath(self.path)!r}; wait for it, or choose another."
                ) from None
        try:
            with lock:
                self._refuse_what_is_foreign()
                yield
        finally:
            with contextlib.suppress(OSError):
                (self.path / _LOCK).unlink(missing_ok=True)
                if is_new:
                    self.path.rmdir()

    def create(self) -> None:
        """Make the folder, with `checkpoints` in it, by which it is known as a run's from the first moment.

        Raises:
            SavingError: The folder cannot be made.
        """
        with named_errors(self.path):
            (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)

    def remove_if_empty(self) -> None:
        """Take back what `create` made, if there is nothing in it, so that the next run may have the folder."""
        with contextlib.suppress(OSError):  # of a folder that holds something, or is gone
            (self.path / "checkpoints").rmdir()

    @property
    def finished(self) -> bool:
        """Whether the run has written all that it writes; `results.json` comes last."""
        return (self.path / "results.json").is_file()

    def read_results(self) -> dict[str, Any]:
        """Return what a finished run wrote into `results.json`."""
        return json.loads((self.path / "results.json").read_text(encoding="utf-8"))

    def read_log(self) -> str:
        """Return the text of `log.jsonl`, empty if there is none."""
        path = self.path / "log.jsonl"
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def rewind(self, log: str) -> None:
        """Bring the folder of a killed run to where it goes on: the log of that point, and nothing half-written."""
        for left in self.path.glob(".saving-*"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        if log or (self.path / "log.jsonl").exists():
            self.write_text("log.jsonl", log)

    def append_log(self, entry: dict[str, Any]) -> None:
        """Append one line of JSON to `log.jsonl`."""
        with named_errors(self.path / "log.jsonl"), open(self.path / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def write_json(self, name: str, content: Any) -> None:
        """Write a JSON file whole or not at all."""
        self.write_text(name, json.dumps(content, indent=2) + "\n")

    def write_text(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        write_whole(self.path / name, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def save_files(self, save: Callable[[Path], Any], subfolder: str = ".") -> None:
        """Let `save` fill a temporary folder, then move its files into the run's folder.

        Args:
            save: Called with an empty folder, for example a model's `save_pretrained`.
            subfolder: Where the files go, below the run's folder.

        Raises:
            SavingError: A file could not be written; the run's folder is as it was.
        """
        target = self.path / subfolder
        with named_errors(target):
            target.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=".saving-", dir=self.path))
            try:
                save(temporary)
                for file in sorted(temporary.iterdir()):
                    if file.is_file():
                        share(file)
                    os.replace(file, target / file.name)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


__all__ = ["FIRST_PHASE", "RunFolder"]
