# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Repeating a run: fingerprints of its data, state of the code, deterministic kernels, and a recipe from its results.

On a CPU a repeated run is equal to the bit: same recipe, same data, same versions, same processor, same number of
threads and processes. On a GPU that also needs `deterministic: true`.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..common.environment import PACKAGES
from ..data.decoding import ImageDecodingError, read_encoded
from ..recipes import Recipe


if TYPE_CHECKING:
    import datasets

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CHUNK = 256  # images in memory at a time
# What the numbers of a run depend on, besides recipe and data.
_COMPARED = ("cssfe", "python", "processor", "accelerator", "threads", *PACKAGES)


def data_fingerprint(dataset: "datasets.Dataset", num_threads: int | None = None) -> str:
    """SHA-256 of everything in a split that training sees.

    That is the names of the classes and, row by row in order, the image id, the labels (known and unknown) and the
    bytes of the image file. Where files lie does not enter, nor in which format annotations were. Every file is read
    once, which takes far less than decoding it.

    Args:
        dataset: A split as `load_images` gives it.
        num_threads: Threads that read; one a core by default.

    Returns:
        64 hexadecimal digits.
    """
    from ..data import label_names_of

    digest = hashlib.sha256(json.dumps(list(label_names_of(dataset))).encode())
    columns = [name for name in ("image_id", "image", "labels", "unknown_labels") if name in dataset.column_names]
    rows = dataset.select_columns(columns).with_format("arrow")

    def row_digest(row: Mapping[str, Any]) -> bytes:
        # Labels are a set: a reader may list them in another order.
        text = json.dumps([row["image_id"], sorted(row["labels"]), sorted(row.get("unknown_labels") or ())])
        try:
            image = hashlib.sha256(read_encoded(row["image"], image_id=row["image_id"])).digest()
        except ImageDecodingError:
            image = b""  # a file that is gone; whoever decodes it says so
        return hashlib.sha256(text.encode()).digest() + image

    with ThreadPoolExecutor(num_threads or os.cpu_count() or 1) as pool:
        for start in range(0, len(dataset), _CHUNK):
            chunk = rows[start : start + _CHUNK].to_pylist()
            for part in pool.map(row_digest, chunk):
                digest.update(part)
    return digest.hexdigest()


def require_same_data(found: Mapping[str, str], wanted: Mapping[str, str], source: str) -> None:
    """Check that a run's splits are those that another run had.

    Args:
        found: Split -> fingerprint, of this run.
        wanted: Split -> fingerprint, of the run to repeat.
        source: What `wanted` comes from, for the error.

    Raises:
        ValueError: They differ; both fingerprints of the first split that does are named.
    """
    for split in sorted({*found, *wanted}):
        if found.get(split) != wanted.get(split):
            before, now = (str(side.get(split, "absent"))[:16] for side in (wanted, found))
            raise ValueError(
                f"the data has changed: split {split!r} has the fingerprint {now} and had {before} in {source}; "
                "restore the data, or accept it with --allow_changed_data."
            )


def git_state(folder: str | os.PathLike = ".") -> dict[str, Any] | None:
    """Commit of the git checkout that a folder lies in.

    Returns:
        `{"commit": 40 digits, "dirty": whether files that git follows have changes}`; `None` outside of a checkout,
        without git, or before the first commit.
    """
    try:
        commit = _git(folder, "rev-parse", "--verify", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: str | os.PathLike, *arguments: str) -> str:
    done = subprocess.run(
        # Asking for the state must not take a lock that somebody else's commit needs.
        ["git", "--no-optional-locks", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@contextlib.contextmanager
def determinism(enabled: bool) -> Iterator[None]:
    """Let torch use deterministic kernels alone while a run lasts; the settings before come back after it.

    An operation that has no deterministic kernel is then torch's `RuntimeError`, which names it. cuBLAS reads its
    workspace setting when a process first uses it, so a process that has computed on a GPU before should set
    `CUBLAS_WORKSPACE_CONFIG=:4096:8` itself.

    Args:
        enabled: Whether to change anything.
    """
    if not enabled:
        yield
        return
    cudnn = torch.backends.cudnn
    before = (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled())
    kernels = (cudnn.benchmark, cudnn.deterministic)
    workspace = os.environ.get(_CUBLAS)
    try:
        os.environ.setdefault(_CUBLAS, ":4096:8")
        torch.use_deterministic_algorithms(True)
        cudnn.benchmark, cudnn.deterministic = False, True
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.benchmark, cudnn.deterministic = kernels
        if workspace is None:
            os.environ.pop(_CUBLAS, None)


@dataclass(frozen=True)
class RunToRepeat:
    """What `results.json` says of a run.

    Attributes:
        recipe: Its resolved recipe, as plain values, with the precision that it computed in.
        data_fingerprint: Split -> fingerprint; `None` if the run noted none.
        environment: As `describe_environment` gave it.
        num_processes: Processes that trained.
        source: Path of the file.
    """

    recipe: dict[str, Any]
    data_fingerprint: dict[str, str] | None
    environment: dict[str, Any]
    num_processes: int | None
    source: str

    def differences(self, environment: Mapping[str, Any], num_processes: int = 1) -> list[str]:
        """What is not as it was and can change numbers, one text each.

        Args:
            environment: Of this process.
            num_processes: Of this run.
        """
        found = [
            f"{name} is {environment.get(name)}, was {self.environment[name]}"
            for name in _COMPARED
            if name in self.environment and environment.get(name) != self.environment[name]
        ]
        if self.num_processes not in (None, num_processes):
            found.append(f"num_processes is {num_processes}, was {self.num_processes}")
        return found


def read_run(path: str | os.PathLike) -> RunToRepeat:
    """Read a `results.json`, or that of a run's folder.

    Raises:
        ValueError: There is none, it holds no recipe, or the recipe has keys that this version does not know.
    """
    file = Path(path) / "results.json" if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise ValueError(f"there is no {os.fspath(file)!r}; give a results.json that `cssfe train` wrote.")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{os.fspath(file)!r} is no JSON; give a results.json that `cssfe train` wrote.") from error
    recipe = content.get("recipe") if isinstance(content, dict) else None
    if not isinstance(recipe, dict):
        raise ValueError(f"{os.fspath(file)!r} holds no recipe; give a results.json that `cssfe train` wrote.")
    unknown = sorted(set(recipe) - {item.name for item in dataclasses.fields(Recipe)})
    if unknown:
        made = content.get("environment", {}).get("cssfe")
        raise ValueError(
            f"{os.fspath(file)!r} has recipe keys that this version does not know ({', '.join(unknown)}); repeat it "
            f"with cssfe {made}."
        )
    return RunToRepeat(
        # `auto` chose by the machine; the repetition computes as the run did.
        recipe=recipe | {"mixed_precision": content.get("mixed_precision") or recipe.get("mixed_precision", "auto")},
        data_fingerprint=content.get("data_fingerprint"),
        environment=content.get("environment") or {},
        num_processes=content.get("num_processes"),
        source=os.fspath(file),
    )


__all__ = ["RunToRepeat", "data_fingerprint", "determinism", "git_state", "read_run", "require_same_data"]
