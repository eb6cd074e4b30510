# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The training engine: a recipe in, a folder with a trained model and its results out.

Data flows one way: images -> loader -> model -> loss -> optimizer, then weights -> scores -> metric -> report. The
best epoch is chosen by mAP on the validation split; the test split, if there is one, is looked at once, at the end.
"""

import contextlib
import dataclasses
import gc
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedType, broadcast_object_list, set_seed

from ..common.environment import build_accelerator, describe_environment, process_state, warn_of_idle_cores
from ..common.files import SavingError
from ..common.tables import show
from ..data.streaming import StreamingLoader
from ..image_processing_cssfe import CSSFEImageProcessor
from ..metrics.long_tail import MAP_FIGURES
from ..recipes import Recipe, first_phase_recipe
from .checkpoint import CheckpointStore
from .discriminant import first_look, initialize_class_activation
from .frozen_features import FeatureFeed, build_feature_loaders
from .initial_model import require_same_shapes
from .interruption import TrainingInterruptedError
from .loop import fit
from .monitor import RunMonitor
from .preparation import build_run_loaders, build_run_model, load_run_data
from .pretrained_classifier import recipe_classifier
from .progress import without_library_bars
from .repeat import RunToRepeat, determinism, git_state, require_same_data
from .report import class_table, group_table, published_row
from .resume import check_resume, find_checkpoint, require_same_recipe, resume_run
from .run import Observer, Run
from .run_folder import FIRST_PHASE, RunFolder
from .tracking import tracker_options


logger = logging.getLogger(__name__)


def train(
    recipe: Recipe,
    output_dir: str | os.PathLike,
    quiet: bool = False,
    *,
    same_data_as: RunToRepeat | None = None,
    resume: str | os.PathLike = "never",
) -> dict[str, Any]:
    """Train a model and write everything about the run into a folder.

    A recipe with a `first_phase` has two such runs, the first in a folder within this one.

    Args:
        recipe: What to do; see `Recipe`.
        output_dir: A folder that does not exist yet or is empty, or that of the run to resume. It receives the model
            with its image processor and Hub code, `results.json`, `log.jsonl`, the model card `README.md` and
            `checkpoints/`.
        quiet: Print no progress and no table.
        same_data_as: A run (see `read_run`) whose data this one must have; `None` takes the data as it is.
        resume: `"auto"` goes on from the newest intact checkpoint in `output_dir`, and begins if there is none;
            `"never"` refuses a folder that holds a run; a checkpoint's folder goes on from that one. A resumed run's
            weights, log and results are equal to the bit to those of a run that was not stopped, on a CPU, or on a GPU
            with `deterministic`.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: Something about recipe, data, weights or embeddings does not fit; nothing has been written then, but
            for a first phase.
        SavingError: The folder cannot be written; checkpoints that are there stay intact.
        TrainingInterruptedError: SIGTERM or SIGINT came; where the run was is saved.
        FloatingPointError: The loss is not finite any more, or has exploded; the batch's image ids are named.
    """
    check_resume(resume)
    folder = RunFolder(output_dir, resume=resume != "never")
    initial_model: str | os.PathLike | None = recipe.initial_model
    first = first_phase_recipe(recipe)
    with _claimed(folder):
        if first is not None:
            require_same_shapes(recipe, first)
            initial_model = _train_first_phase(first, folder, quiet, same_data_as, resume)
        with determinism(recipe.deterministic), without_library_bars(quiet):
            return _train(recipe, folder, quiet, same_data_as, resume, initial_model)


@contextlib.contextmanager
def _claimed(folder: RunFolder) -> Iterator[None]:
    """Keep other runs out of a folder. One process claims it for all; of a finished run nothing is written."""
    with contextlib.ExitStack() as stack:
        refusal: list[Any] = [None]
        if process_state().is_main_process and not folder.finished:
            try:
                stack.enter_context(folder.claimed())
            except (ValueError, SavingError) as error:
                refusal = [error]
        if process_state().num_processes > 1:
            broadcast_object_list(refusal)
        if refusal[0] is not None:
            raise refusal[0]
        yield


def _train_first_phase(
    recipe: Recipe, folder: RunFolder, quiet: bool, same_data_as: RunToRepeat | None, resume: str | os.PathLike
) -> Path:
    """Train the first of two phases by its own recipe, or what is left of it, and return its folder in the run's."""
    its = RunFolder(folder.path / FIRST_PHASE, resume=True)
    if folder.finished or its.finished:
        if its.finished:
            require_same_recipe(recipe, its.read_results(), repr(os.fspath(its.path)))
        return its.path
    if resume not in ("auto", "never"):
        raise ValueError(
            f"resume is {os.fspath(resume)!r}, but {os.fspath(its.path)!r} holds no finished first phase; go on by "
            "--resume auto."
        )
    if same_data_as is not None and same_data_as.data_fingerprint is not None:
        wanted = same_data_as.data_fingerprint
        own = {name: wanted[name] for name in (recipe.train_split, recipe.validation_split) if name in wanted}
        same_data_as = dataclasses.replace(same_data_as, data_fingerprint=own)
    if not quiet and process_state().is_main_process:
        print(f"first of two phases: {recipe.epochs} epoch(s) in {its.path}", flush=True)
    try:
        train(recipe, its.path, quiet, same_data_as=same_data_as, resume="auto")
    except TrainingInterruptedError as error:
        raise TrainingInterruptedError(
            f"stopped in the first of two phases, and saved; go on with --output_dir {folder.path} --resume auto.",
            error.exit_code - 128,
        ) from error
    gc.collect()  # the second phase needs the memory of the first one
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return its.path


def _train(
    recipe: Recipe,
    folder: RunFolder,
    quiet: bool,
    same_data_as: RunToRepeat | None,
    resume: str | os.PathLike,
    initial_model: str | os.PathLike | None,
) -> dict[str, Any]:
    start = time.perf_counter()
    output_dir = folder.path
    accelerator = build_run_accelerator(recipe, output_dir)
    accelerator.wait_for_everyone()  # all have looked at the folder before the first writes into it
    warn_of_idle_cores(accelerator)
    checkpoints = CheckpointStore(folder.path / "checkpoints", recipe.checkpoints_kept)
    if folder.finished:
        results = folder.read_results()
        require_same_recipe(recipe, results, repr(os.fspath(output_dir)))
        logger.warning("The run in %s is finished: there is nothing to resume.", os.fspath(output_dir))
        if accelerator.is_main_process:
            checkpoints.clear()  # a run may have been killed while it did so
        return results
    checkpoint = find_checkpoint(resume, checkpoints, accelerator)
    set_seed(recipe.seed)
    show_progress = accelerator.is_main_process and not quiet
    data = load_run_data(recipe, show_progress)
    if same_data_as is not None and same_data_as.data_fingerprint is not None:
        require_same_data(data.fingerprint, same_data_as.data_fingerprint, same_data_as.source)
    first = RunFolder(folder.path / FIRST_PHASE, resume=True).read_results() if recipe.first_phase else None
    changed = [] if first is None else [k for k, v in first["data_fingerprint"].items() if data.fingerprint[k] != v]
    if changed:
        raise ValueError(
            f"split {changed[0]!r} has changed since the first phase in {os.fspath(output_dir)!r} was trained; restore "
            "the data, or start in another output_dir."
        )
    model = build_run_model(recipe, data, initial_model)
    processor = CSSFEImageProcessor.from_model_config(model.config)
    if recipe.cache_features is None:
        with accelerator.main_process_first():  # the first builds caches, the others find them
            loaders = build_run_loaders(recipe, processor, data, show_progress, accelerator)
    else:
        loaders = build_feature_loaders(recipe, model, data.splits, accelerator, show_progress)
        FeatureFeed(model)
    if checkpoint is not None or initial_model is not None:
        pass  # it has what it learned
    elif recipe.class_activation_init != "random":
        model.to(accelerator.device)
        batches = first_look(recipe, processor, data, loaders[recipe.train_split])
        initialize_class_activation(model, batches, accelerator, show_progress, recipe_classifier(recipe, model))
    elif model.discriminant is not None:
        logger.warning(
            "class_activation_init is random, so the discriminant, with a share of %g in the logit, stays 0 and adds "
            "nothing; set it to discriminant or discriminant_and_classifier.",
            model.config.discriminant_share,
        )
    if accelerator.num_processes > 1:
        set_seed(recipe.seed, device_specific=True)  # the same first weights, but noise of its own for each process
    run = Run(recipe, data, folder, accelerator, model, loaders, quiet=quiet)
    run.prepare()
    run.observers = _build_observers(run)
    run.seconds_before = run.started - start
    if accelerator.is_main_process:
        folder.create()
    try:
        resume_run(run, checkpoint)
        with run.interruption:
            fit(run)
    except BaseException:
        if accelerator.is_main_process:
            folder.remove_if_empty()
        raise
    finally:
        for observer in run.observers:
            observer.close()
    FeatureFeed.detach(model)
    best, resolved = run.best, dataclasses.asdict(recipe)
    if isinstance(run.train_loader, StreamingLoader):  # whose order depends on it
        resolved["num_workers"] = run.train_loader.num_workers
    results = {
        **{key: best["validation"][key] for key in MAP_FIGURES},
        "per_class": best["validation"]["per_class"],
        "best_epoch": best["epoch"],
        "chosen_on": recipe.validation_split,
        "validation": best["validation"],
        "test": best["test"],
        "seed": recipe.seed,
        "wall_time_seconds": round(run.seconds, 3),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "class_counts": dict(zip(data.label_names, data.class_counts, strict=True)),
        "num_training_images": data.num_samples,
        "skipped_images": data.skipped,
        "mixed_precision": accelerator.mixed_precision,
        "num_processes": accelerator.num_processes,
        "environment": describe_environment(),
        "git": git_state(),
        "data_fingerprint": data.fingerprint,
        "recipe": resolved,
    }
    if first is not None:
        results["first_phase"] = {key: first[key] for key in (*MAP_FIGURES, "best_epoch", "wall_time_seconds")}
    for observer in run.observers:
        observer.on_run_end(run, results)
    if accelerator.is_main_process:
        _write_run(run, processor, results)
        run.checkpoints.clear()
        if not quiet:
            _show_results(results)
    accelerator.wait_for_everyone()
    return results


def build_run_accelerator(recipe: Recipe, output_dir: str | os.PathLike) -> Accelerator:
    """The accelerator that a recipe asks for.

    Raises:
        ValueError: The device has no such precision, a tracker is missing, or an option does not go with the processes.
    """
    accelerator = build_accelerator(
        recipe.mixed_precision,
        # Batches are gathered into updates by the loop, which weighs them by their labels.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True, non_blocking=True),
        # The schedule is stepped once an update, whatever the number of processes.
        step_scheduler_with_optimizer=False,
        **tracker_options(recipe.trackers, output_dir),
    )
    if recipe.ema_decay is not None and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "ema_decay needs whole weights on each GPU, FSDP spreads them; set ema_decay to null, or use DDP."
        )
    if recipe.sync_batch_norm and accelerator.num_processes > 1 and accelerator.device.type == "cpu":
        raise ValueError("sync_batch_norm needs GPUs: torch has none for CPUs; set it to false.")
    return accelerator


def _build_observers(run: Run) -> list[Observer]:
    """Who looks on at the run, in the order in which they are called."""
    observers: list[Observer] = [RunMonitor(run)]
    if run.recipe.record_gradients:
        from .gradient_observer import GradientObserver

        observers.append(GradientObserver(run))
    return observers


def _write_run(run: Run, processor: CSSFEImageProcessor, results: dict[str, Any]) -> None:
    from ..hub.model_card import render_model_card

    def save(path):
        run.model.save_pretrained(path, state_dict=dict(run.best["state"]))
        processor.save_pretrained(path)

    run.folder.save_files(save)
    run.folder.write_text("README.md", render_model_card(results, run.model.config))
    run.folder.write_json("results.json", results)  # the last file: a run that has it is finished


def _show_results(results: dict[str, Any]) -> None:
    judged = {f"{results['chosen_on']} (best epoch {results['best_epoch']})": results["validation"]}
    if results["test"] is not None:
        judged[results["recipe"]["test_split"]] = results["test"]
    published = results["recipe"]["published"]
    if published:
        judged[published_row(published)] = published
    last = results["test"] or results["validation"]
    name = f"{results['recipe']['ablation']}, {results['recipe']['backbone']}, {results['recipe']['loss']}"
    show(class_table(last, "Average precision by class"), group_table(judged, name))


__all__ = ["build_run_accelerator", "train"]
