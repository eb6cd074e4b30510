# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Files that are never half-written.

They are written under a temporary name in the same folder and renamed when they are whole, so a full disk or an
interruption leaves either the old file or the new one.
"""

import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any


class SavingError(RuntimeError):
    """Something could not be written; what was there before is still there."""


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` make a file under a temporary name beside `path`, then rename it.

    Args:
        path: The file wanted; its folder is made if needed.
        write: Called with the temporary path, which keeps the file's ending.

    Raises:
        SavingError: The file could not be written; an older one is still whole.
    """
    with named_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".saving-{os.getpid()}-{path.name}")
        try:
            write(temporary)
            share(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def share(file: Path) -> None:
    """Give a file the rights that this user's new files have; safetensors writes files that nobody else may read."""
    probe = file.with_name(f".saving-{os.getpid()}-rights")
    with contextlib.suppress(OSError):  # of a place that knows no rights
        probe.touch()
        file.chmod(stat.S_IMODE(probe.stat().st_mode))
    probe.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: Path):
    """Turn what goes wrong in writing `path` into a `SavingError` that names it."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _saving_error(path, error) from error
    except Exception as error:
        # safetensors reports a full disk with an error type of its own
        if type(error).__name__ == "SafetensorError":
            raise _saving_error(path, error) from error
        raise


def _saving_error(path: Path, error: Exception) -> SavingError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    blocked = isinstance(error, FileExistsError | IsADirectoryError | NotADirectoryError | PermissionError)
    mend = "choose another place" if blocked else "free space or choose another folder"
    return SavingError(f"cannot save {os.fspath(path)!r}: {reason}; {mend}.")


__all__ = ["SavingError", "named_errors", "share", "write_whole"]
