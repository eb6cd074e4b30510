# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Trying a run out in seconds, before it takes days: every part of it once, nothing left behind."""

import contextlib
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, set_seed
from rich.text import Text

from ..common.tables import TextTable, text_table
from ..configuration_cssfe import GROUPS
from ..data import class_statistics, label_names_of, require_every_class, verify_images
from ..evaluation.logits import align_labels
from ..image_processing_cssfe import CSSFEImageProcessor
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe
from .checkpoint import verify_checkpoint
from .divergence import LossMonitor
from .engine import build_run_accelerator
from .loop import judge, train_epoch
from .preparation import SKIP_OPTION, RunData, build_run_loaders, build_run_model, load_run_splits
from .pretrained_classifier import recipe_classifier
from .progress import duration
from .repeat import determinism
from .run import Observer, Run
from .run_folder import RunFolder
from .training_state import full_state, restore_state


_DECODED_IMAGES = 64  # of each split, spread evenly over it
_EVALUATED_BATCHES = 2
_GIB = 2**30


@dataclass(frozen=True)
class Check:
    """What one check of a dry run found.

    Attributes:
        name: What was checked.
        ok: Whether it is in order; `None` if it was not reached, because a check before it failed.
        detail: What was seen, or the error in one line.
        error: The exception, if it failed.
    """

    name: str
    ok: bool | None
    detail: str
    error: Exception | None = None


class DryRunError(RuntimeError):
    """A dry run found something that would have stopped the run."""


def dry_run(
    recipe: Recipe, output_dir: str | os.PathLike | None = None, resume: str | os.PathLike = "never"
) -> list[Check]:
    """Check everything about a run in seconds: nothing is written but into a temporary folder that is removed.

    In the order of the table: the run's folder and its disk, splits, a sample of the images, labels, label embeddings
    and weights, a batch as the loader gives it, two updates (with their time), memory, checkpoint and model written and
    read back, and an evaluation of a few batches. Of a check that fails the error is noted; what needs it is not
    reached, everything else is still checked.

    Not checked: images outside of the sample, caches of decoded images or features (they are not built), and whether a
    later step needs more memory than the first two.

    Args:
        recipe: The run.
        output_dir: The folder that it is to have, which stays as it is; `None` checks no folder.
        resume: As for `train`: unless it is `"never"`, the folder may hold the run. Its checkpoints are not read.

    Returns:
        One entry a check.
    """
    with determinism(recipe.deterministic), tempfile.TemporaryDirectory(prefix="cssfe-dry-run-") as temporary:
        return _DryRun(recipe, output_dir, resume != "never", Path(temporary)).checks()


def check_table(checks: Sequence[Check], title: str = "Dry run") -> TextTable:
    """The checks as a table."""
    table = text_table(title, "check", "", "seen")
    words = {True: Text("ok", "green"), False: Text("failed", "bold red"), None: Text("not reached", "dim")}
    for check in checks:
        table.add_row(check.name, words[check.ok], check.detail)
    return table


class _DryRun:
    """The checks, and what they hand on to each other."""

    def __init__(self, recipe: Recipe, output_dir: str | os.PathLike | None, resumes: bool, temporary: Path):
        # Caches take minutes to fill; one loader process shows whether loader processes start.
        changes: dict[str, Any] = {"num_workers": 0 if recipe.num_workers == 0 else 1, "trackers": []}
        changes |= {"decoded_cache": None, "decoded_cache_short_side": None, "cache_features": None}
        changes |= {"checkpoint_every_steps": None, "first_phase": None}
        self.recipe = replace(recipe, **changes)
        self.given = recipe
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.resumes = resumes
        self.temporary = temporary
        self.notes: dict[str, Any] = {}

    def checks(self) -> list[Check]:
        steps: list[tuple[str, Callable[[], str], tuple[str, ...]]] = [
            ("folder", self._folder, ()),
            ("device", self._device, ()),
            ("splits", self._splits, ()),
            ("images", self._images, ("splits",)),
            ("labels", self._labels, ("splits",)),
            ("model", self._model, ("device", "labels")),
            ("batch", self._batch, ("images", "model")),
            ("step", self._step, ("batch",)),
            ("memory", self._memory, ("step",)),
            ("checkpoint", self._checkpoint, ("step",)),
            ("evaluation", self._evaluation, ("step",)),
        ]
        done: dict[str, Check] = {}
        for name, look, needs in steps:
            failed = [need for need in needs if not done[need].ok]
            if failed:
                done[name] = Check(name, None, f"needs {failed[0]}")
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a few images have classes without positives
                    done[name] = Check(name, True, look())
            except Exception as error:
                text = " ".join(str(error).split()) or type(error).__name__
                done[name] = Check(name, False, text, error)
            if "device" in done and done["device"].ok:
                done[name] = self._agreed(done[name])
        if done["device"].ok:
            self.accelerator.wait_for_everyone()  # the first process is about to remove the folder
        return list(done.values())

    def _agreed(self, check: Check) -> Check:
        """A check as all processes see it: one that failed for one has failed, or the others would wait for it."""
        if self.accelerator.num_processes == 1:
            return check
        failed = [detail for detail in gather_object([None if check.ok else check.detail]) if detail is not None]
        if not failed:
            return check
        return replace(check, ok=False, detail=failed[0], error=check.error or DryRunError(failed[0]))

    def _folder(self) -> str:
        if self.output_dir is None:
            return "none given"
        RunFolder(self.output_dir, resume=self.resumes)
        existing = next(path for path in (self.output_dir, *self.output_dir.resolve().parents) if path.exists())
        if not os.access(existing, os.W_OK):
            raise ValueError(f"{os.fspath(existing)!r} cannot be written to; choose another output_dir.")
        self.notes["free"] = shutil.disk_usage(existing).free
        return f"{self.output_dir} can be used; {_size(self.notes['free'])} left on its disk"

    def _device(self) -> str:
        self.accelerator = build_run_accelerator(self.recipe, self.temporary)
        # What the first process writes, all read.
        self.temporary = Path(broadcast_object_list([os.fspath(self.temporary)])[0])
        set_seed(self.recipe.seed)
        device = self.accelerator.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        return (
            f"{name}, {self.accelerator.num_processes} process(es), mixed precision {self.accelerator.mixed_precision}"
        )

    def _splits(self) -> str:
        self.splits = load_run_splits(self.recipe)
        return ", ".join(f"{name} {len(split):,}" for name, split in self.splits.items())

    def _images(self) -> str:
        broken = []
        total = 0
        for name, split in self.splits.items():
            count = min(_DECODED_IMAGES, len(split))
            rows = [index * len(split) // count for index in range(count)]
            on_error = "skip" if self.recipe.skip_unreadable_images else "raise"
            _, report = verify_images(
                split.select(rows),
                on_error=on_error,
                num_threads=os.cpu_count() or 1,
                progress=False,
                skip_option=SKIP_OPTION,
            )
            broken += [image_id for _, image_id, _ in report.broken]
            left_out = {rows[place] for place, _, _ in report.broken}
            if left_out:  # as the run will
                self.splits[name] = split.select([row for row in range(len(split)) if row not in left_out])
            total += count
        left = f", {len(broken)} unreadable and left out ({broken[0]!r}, ...)" if broken else ""
        return f"{total} decoded{left}"

    def _labels(self) -> str:
        recipe = self.recipe
        names = label_names_of(self.splits[recipe.train_split])
        statistics = class_statistics(self.splits[recipe.train_split], names)
        require_every_class(statistics, recipe.train_split)
        unseen = []
        for name, split in self.splits.items():
            own = label_names_of(split)
            align_labels(torch.zeros(1, len(own)).numpy(), own, names)
            absent = sum(not count for count in class_statistics(split, own).class_counts)
            unseen += [f"{absent} in {name}"] if absent else []
        self.data = RunData(self.splits, names, list(statistics.class_counts), statistics.num_samples, {}, {})
        note = f"; without positives and so not judged: {', '.join(unseen)}" if unseen else ""
        most, fewest = max(statistics.class_counts), min(statistics.class_counts)
        return f"{len(names)} classes, {most:,} to {fewest:,} images each{note}"

    def _model(self) -> str:
        self.model = build_run_model(self.recipe, self.data, self.recipe.initial_model)
        if self.recipe.initial_model is None:
            recipe_classifier(self.recipe, self.model)  # whether there is one
        self.processor = CSSFEImageProcessor.from_model_config(self.model.config)
        weights = sum(parameter.numel() for parameter in self.model.parameters())
        text = f"{self.recipe.backbone}, {weights / 1e6:.2f} M weights"
        if self.model.config.uses_fusion:
            text += f", label embeddings {tuple(self.model.cssfe.label_embeddings.shape)}"
        groups = self.model.config.groups
        return text + ", " + ", ".join(f"{groups.count(group)} {group}" for group in GROUPS)

    def _batch(self) -> str:
        self.loaders = build_run_loaders(self.recipe, self.processor, self.data, False, self.accelerator)
        started = time.perf_counter()
        batch = next(iter(self.loaders[self.recipe.train_split]))
        if not torch.isfinite(batch["pixel_values"]).all():
            raise ValueError("the first batch holds pixels that are not finite; look at the images and augmentation.")
        shape = " x ".join(str(side) for side in batch["pixel_values"].shape)
        seconds = time.perf_counter() - started
        return f"{shape}, loaded in {seconds:.2f} s with {self.recipe.num_workers} loader process(es)"

    def _step(self) -> str:
        observer = _Steps(2 * self.recipe.gradient_accumulation_steps)
        folder = RunFolder(self.temporary / "run", resume=True)  # another process may have made it by now
        folder.create()
        if self.accelerator.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.accelerator.device)
        self.run = Run(
            self.recipe, self.data, folder, self.accelerator, self.model, self.loaders, [observer], quiet=True
        )
        self.run.prepare()
        steps_per_epoch = self.run.steps_per_epoch
        with contextlib.suppress(_EnoughStepsError):
            self.run.set_epoch()
            train_epoch(self.run)
        text = f"loss {observer.losses[-1]:.4f}; {observer.seconds[-1]:.3f} s"
        if len(observer.seconds) > 1:  # the first one warms up
            total = observer.seconds[-1] * steps_per_epoch * self.recipe.epochs
            text += f", about {duration(total)} for {self.recipe.epochs} epoch(s) of {steps_per_epoch} step(s)"
        return text

    def _memory(self) -> str:
        device = self.accelerator.device
        if device.type == "cuda":
            on_gpu = torch.cuda.max_memory_reserved(device), torch.cuda.mem_get_info(device)[1]
            return f"peak {_size(on_gpu[0])} of {_size(on_gpu[1])} on the GPU"
        return f"peak {_size(_own_peak_memory())} of {_size(_machine_memory())}, loader processes not counted"

    def _checkpoint(self) -> str:
        run = self.run
        before = full_state(run.model)
        run.save_checkpoint()
        path = run.checkpoints.folders()[-1]
        state = verify_checkpoint(path)
        with torch.no_grad():
            for value in run.model.parameters():
                value.zero_()
        restore_state(run, path, state)
        restored = full_state(run.model)
        folder = self.temporary / "model"
        if self.accelerator.is_main_process:
            run.model.save_pretrained(folder, state_dict=dict(before))
            self.processor.save_pretrained(folder)
        self.accelerator.wait_for_everyone()
        CSSFEImageProcessor.from_pretrained(folder)
        if self.accelerator.is_main_process:  # BatchNorm statistics of the others are their own
            self._compare(before, restored)
            self._compare(before, CSSFEForImageClassification.from_pretrained(folder).state_dict())
        # Those that are kept and the one being written, with the best weights in each; the best model and the last one.
        model = _folder_size(folder)
        checkpoint = _folder_size(path) + model
        needed = checkpoint * (self.given.checkpoints_kept + 1) + 2 * model
        free = self.notes.get("free", math.inf)
        if needed > free:
            raise OSError(f"the run needs {_size(needed)} and {_size(free)} are free; choose another output_dir.")
        return f"checkpoint {_size(checkpoint)}, model {_size(model)}: written and read back, equal to the bit"

    @staticmethod
    def _compare(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> None:
        for name, value in before.items():
            if not torch.equal(after[name].cpu(), value):
                raise RuntimeError(f"{name} is not what was saved; please report this.")

    def _evaluation(self) -> str:
        run, split = self.run, self.recipe.validation_split
        judged = run.average.module if run.average is not None else run.prepared
        with _few_batches(run, split, _EVALUATED_BATCHES):
            result = judge(run, judged, split)
        total = result["map_total"]
        return f"mAP of {_EVALUATED_BATCHES} batch(es) of {split}: " + ("-" if total is None else f"{100 * total:.1f}")


class _EnoughStepsError(Exception):
    """Two updates are done."""


class _Steps(Observer):
    """Reads each step's loss and time, and ends the epoch after a few."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.losses: list[float] = []
        self.seconds: list[float] = []
        self._monitor = LossMonitor(every=1)
        self._started = time.perf_counter()

    def on_epoch_start(self, run: Run) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, run: Run, batch: Any, loss: torch.Tensor, logits: torch.Tensor) -> None:
        if len(self.losses) == self.count:  # the update by the last of them is done by now
            raise _EnoughStepsError
        self._monitor.step(run.epoch, run.step, loss, batch)
        self.losses.append(loss.item())
        now = time.perf_counter()
        self.seconds.append(now - self._started)
        self._started = now


class _FewBatches:
    """The first batches of a loader, with everything else as the loader has it."""

    def __init__(self, loader: Any, count: int):
        self._loader, self._count = loader, count

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._loader), self._count)

    def __len__(self) -> int:
        return min(self._count, len(self._loader))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


@contextlib.contextmanager
def _few_batches(run: Run, split: str, count: int) -> Iterator[None]:
    loader = run.loaders[split]
    run.loaders[split] = _FewBatches(loader, count)
    try:
        yield
    finally:
        run.loaders[split] = loader


def _folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _size(num_bytes: float) -> str:
    return f"{num_bytes / _GIB:.1f} GiB" if num_bytes >= _GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"


def _own_peak_memory() -> float:
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _machine_memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return math.nan


__all__ = ["Check", "DryRunError", "check_table", "dry_run"]
