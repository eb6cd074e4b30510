# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Predictions of any number of images in one file, resumed after an interruption.

While `scores.parquet` is made there is a folder `scores.parquet.parts` beside it:

| file | holds |
|---|---|
| `plan.json` | what the parts are of: images, model and options, as hashes and values |
| `000000001000.parquet` | rows 1000 and following; renamed to this name when it is whole |
| `.lock` | held by the process at work |

When all parts are there they are joined to the file asked for, under a temporary name that is then replaced, and the
folder is removed. A run that is killed therefore leaves whole parts and no half-written file, and loses at most a
chunk of images. Resumed, it begins at the first missing part. Chunks are whole batches, so the batches are those of a
run that was never interrupted, and the file's content is the same to the last bit on the same machine.

A resumed run must ask for the same: other images, weights or options are refused by name. An image file that was
replaced by another of the same name is not noticed. Workers, device and the kind of file may differ.
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import pyarrow
import pyarrow.parquet
import torch

from ..common.files import SavingError, write_whole
from ..evaluation.score_metadata import score_metadata
from .predictor import PredictedBatch, Predictor
from .tables import WRITERS, batches_to_table, write_parquet


NAMED_FAILURES = 20


@dataclass
class PredictionReport:
    """What `predict_to_file` did.

    Attributes:
        num_images: Rows of the file.
        num_resumed: Of these, rows that an earlier run had left.
        num_failed: Of all rows, images that cannot be read.
        failures: `(image, reason)` of the first twenty of them; the file's column `error` has all.
    """

    num_images: int
    num_resumed: int = 0
    num_failed: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)


def predict_to_file(
    predictor: Predictor,
    images: Sequence[str],
    path: str | os.PathLike,
    *,
    chunk_size: int = 1000,
    resume: bool = False,
    overwrite: bool = False,
    top_k: int | None = None,
    progress: bool = False,
) -> PredictionReport:
    """Classify files into a file; `modeling_cssfe.inference.tables` has its columns.

    Args:
        predictor: Model and options.
        images: Files, at least one.
        path: `.parquet`, `.csv` or `.jsonl`.
        chunk_size: Images in a part, rounded up to whole batches: what an interruption costs, and what memory holds.
        resume: Continue where an interrupted run stopped, if there was one.
        overwrite: Replace what is there, once the new file is whole, and drop an interrupted run.
        top_k: Highest scores written for each image, `.jsonl` only; `None` writes all.
        progress: Show a progress bar.

    Returns:
        Counts, and the images that cannot be read.

    Raises:
        ValueError: The path's ending, an option, a file or interrupted run that is in the way, another process at
            work, or a resumed run that asks for something else.
        SavingError: Something cannot be written; parts that are whole stay.
    """
    target = check_output(path, resume=resume, overwrite=overwrite, top_k=top_k)
    if not images:
        raise ValueError("there are no images to classify; name at least one.")
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; give a number >= 1.")
    chunk_size = -(-chunk_size // predictor.batch_size) * predictor.batch_size
    folder = parts_folder(target)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / ".lock").acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(
            f"another process is writing {os.fspath(target)!r}; wait for it, or choose another name."
        ) from None
    except OSError as error:
        raise SavingError(f"cannot save {os.fspath(target)!r}: {error.strerror}; choose another folder.") from error
    with lock:
        _settle_plan(folder, _plan(predictor, images, chunk_size), overwrite)
        report = PredictionReport(len(images))
        report.num_resumed = _count_done(folder, len(images), chunk_size)
        rest = images[report.num_resumed :]
        start = report.num_resumed
        config = predictor.config
        metadata = score_metadata(
            predictor.label_names, config.class_counts, config.head_min, config.tail_max, config.thresholds
        )
        chunk: list[PredictedBatch] = []
        for batch in predictor.stream(rest, progress=progress, done=report.num_resumed) if rest else ():
            chunk.append(batch)
            held = sum(len(one.images) for one in chunk)
            if held >= chunk_size or start + held == len(images):
                table = batches_to_table(chunk, predictor.label_names, predictor.thresholds)
                table = table.replace_schema_metadata(metadata)
                write_whole(folder / _part(start), functools.partial(write_parquet, [table]))
                start, chunk = start + held, []
        joined = folder / f"joined{target.suffix.lower()}"
        starts = range(0, len(images), chunk_size)
        write = WRITERS[target.suffix.lower()]
        write_whole(joined, lambda temporary: write(_tables(folder, starts, report), temporary, top_k))
        os.replace(joined, target)
    shutil.rmtree(folder, ignore_errors=True)
    return report


def check_output(
    path: str | os.PathLike, *, resume: bool = False, overwrite: bool = False, top_k: int | None = None
) -> Path:
    """Check what needs neither model nor images.

    Returns:
        The path.

    Raises:
        ValueError: As of `predict_to_file`.
    """
    target = Path(path)
    name = repr(os.fspath(path))
    if target.suffix.lower() not in WRITERS:
        raise ValueError(f"cannot write {name}; choose a file ending in {', '.join(WRITERS)}.")
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other; choose one.")
    if top_k is not None and (top_k < 1 or target.suffix.lower() != ".jsonl"):
        raise ValueError(
            f"top_k is {top_k} for {name}; it takes a number >= 1, and a .jsonl file, without a column a class."
        )
    if target.is_dir():
        raise ValueError(f"output {name} is a folder; name a file.")
    interrupted = (parts_folder(target) / "plan.json").exists()
    if interrupted and not (resume or overwrite):
        raise ValueError(
            f"an interrupted run was writing {name}: continue it with --resume, or drop it with --overwrite."
        )
    if target.exists() and not overwrite and not interrupted:
        left = ", with nothing left to resume" if resume else ""
        raise ValueError(f"{name} is already there{left}; replace it with --overwrite, or choose another name.")
    return target


def parts_folder(path: Path) -> Path:
    """Folder of the parts of a file that is being written."""
    return path.with_name(f"{path.name}.parts")


def _plan(predictor: Predictor, images: Sequence[str], chunk_size: int) -> dict[str, Any]:
    names = hashlib.sha256()
    for image in images:
        names.update(os.fsencode(image) + b"\0")
    views = predictor.views
    return {
        "images": f"{len(images)} ({names.hexdigest()[:16]})",
        "model": _fingerprint(predictor),
        "batch_size": predictor.batch_size,
        "chunk_size": chunk_size,
        "tta": {"five_crop": views.five_crop, "sizes": [list(size) for size in views.sizes], "flip": views.flip},
        "box_threshold": predictor.box_threshold,
        "max_pixels": predictor.max_pixels,
        "mixed_precision": predictor.mixed_precision,
    }


def _fingerprint(predictor: Predictor) -> str:
    """Hash of all that scores depend on: weights, configuration and processor."""
    settings = predictor.config.to_dict() | {"processor": predictor.views.processor.to_dict()}
    # Where a model lies, and what wrote it, changes no score.
    settings = {key: value for key, value in settings.items() if key not in ("_name_or_path", "transformers_version")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(predictor.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _settle_plan(folder: Path, plan: dict[str, Any], overwrite: bool) -> None:
    file = folder / "plan.json"
    if overwrite:
        for part in folder.glob("*.parquet"):
            part.unlink()
        file.unlink(missing_ok=True)
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        for key, value in plan.items():
            if before.get(key) != value:
                raise ValueError(
                    f"the interrupted run had another {key} ({before.get(key)} instead of {value}); resume it with the "
                    "same, or start anew with --overwrite."
                )
        return
    write_whole(file, lambda temporary: temporary.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8"))


def _part(start: int) -> str:
    return f"{start:012d}.parquet"


def _count_done(folder: Path, num_images: int, chunk_size: int) -> int:
    """Rows of the parts that are there without a gap."""
    for start in range(0, num_images, chunk_size):
        rows = min(chunk_size, num_images - start)
        try:
            # A machine that loses power can leave a renamed file without its content.
            if pyarrow.parquet.read_metadata(folder / _part(start)).num_rows != rows:
                return start
        except (OSError, pyarrow.ArrowException):
            return start
    return num_images


def _tables(folder: Path, starts: Sequence[int], report: PredictionReport) -> Iterator[pyarrow.Table]:
    """Parts one after the other, counting what could not be read."""
    for start in starts:
        table = pyarrow.parquet.ParquetFile(folder / _part(start)).read()
        failed = table.select(["image", "error"]).filter(table["error"].is_valid())
        report.num_failed += len(failed)
        for row in failed.slice(0, NAMED_FAILURES - len(report.failures)).to_pylist():
            report.failures.append((row["image"], row["error"]))
        yield table


__all__ = ["PredictionReport", "check_output", "parts_folder", "predict_to_file"]
