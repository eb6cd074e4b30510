# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The training loop: steps, epochs, the choice of the best epoch."""

import math
import signal
import sys
import time
from contextlib import nullcontext
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from accelerate.utils import broadcast
from torch import nn

from ..data import label_names_of
from ..evaluation.logits import StopWantedError, align_labels, compute_scores
from ..metrics import long_tail_map
from ..metrics.long_tail import MAP_FIGURES
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe
from .divergence import WHAT_TO_TRY
from .interruption import TrainingInterruptedError
from .preparation import frozen_layers
from .probability_curves import group_probabilities
from .run import Run
from .training_state import full_state, load_full_state


# Updates between two looks at whether another process was told to stop, on GPUs.
_LISTEN_EVERY = 10


def fit(run: Run) -> None:
    """Train for all epochs; leave the best epoch's results in `run.best` and its weights in the model.

    Raises:
        TrainingInterruptedError: A signal came; a checkpoint of where the run was has been written.
    """
    recipe, accelerator = run.recipe, run.accelerator
    while not (run.phase == "done" and (run.epoch >= recipe.epochs or run.stop_reason is not None)):
        if run.phase == "done":
            run.epoch, run.phase, run.step = run.epoch + 1, "step", 0
        run.set_epoch()
        if run.phase == "step":
            run.entry = train_epoch(run)
            run.phase = "trained"
        _stop_if_wanted(run)
        entry = dict(run.entry)
        if run.epoch % recipe.evaluate_every == 0 or run.epoch == recipe.epochs:
            try:
                entry |= _validate(run)
            except StopWantedError:
                _stop(run)
        for observer in run.observers:
            observer.on_epoch_end(run, entry)
        if accelerator.is_main_process:
            run.folder.append_log(entry)
        run.phase = "done"
        last = run.epoch >= recipe.epochs or run.stop_reason is not None
        if last or run.epoch % recipe.checkpoint_every_epochs == 0:
            run.save_checkpoint()
        _stop_if_wanted(run)
    load_full_state(run.model, run.best["state"])
    if recipe.test_split in run.loaders:
        try:
            run.best["test"] = judge(run, run.prepared, recipe.test_split)
        except StopWantedError:
            # The model holds the best weights by now: the checkpoint of the last epoch is where to go on.
            raise _interrupted(run) from None


def train_epoch(run: Run) -> dict[str, Any]:
    """Train for an epoch, or for what an interruption left of it, and return its log entry."""
    recipe, accelerator = run.recipe, run.accelerator
    _set_train_mode(run.model, recipe)
    started, images = time.perf_counter(), 0
    for observer in run.observers:
        observer.on_epoch_start(run)
    if run.step == 0:
        run.loss_sum = torch.zeros((), device=accelerator.device)
    batches = iter(run.batches())
    while group := list(islice(batches, recipe.gradient_accumulation_steps)):
        _update(run, group)
        images += sum(len(batch["pixel_values"]) for batch in group) * accelerator.num_processes
        every = recipe.checkpoint_every_steps
        if every is not None and run.updates % every == 0:
            run.save_checkpoint()
        if _told_to_stop(run):
            _stop(run)
    updates = math.ceil(run.step / recipe.gradient_accumulation_steps)
    elapsed = time.perf_counter() - started
    entry = {
        "epoch": run.epoch,
        "loss": accelerator.reduce(run.loss_sum, reduction="mean").item() / max(updates, 1),
        "learning_rate": max(group["lr"] for group in run.optimizer.param_groups),
        "images_per_second": round(images / elapsed, 2),
        "seconds": round(elapsed, 3),
    }
    for observer in run.observers:
        observer.on_steps_done(run, entry)
    return entry


def _update(run: Run, group: list[dict[str, torch.Tensor]]) -> None:
    """One update of the weights by the batches of all processes, as if they were one batch.

    Accelerate divides by the number of batches. A mean over labels needs each batch's share of the labels instead,
    which differs where labels are unknown and at the end of an epoch, and a sum is not to be divided at all. So the
    losses are scaled here and Accelerate does the rest.
    """
    recipe, accelerator, model = run.recipe, run.accelerator, run.prepared
    scales = _scales(run, group)
    for number, batch in enumerate(group, start=1):
        if run.augmentation is not None:
            batch["pixel_values"] = run.augmentation(batch)
        pixels = batch["pixel_values"]
        if recipe.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        with accelerator.no_sync(model) if number < len(group) else nullcontext():
            output = model(pixel_values=pixels, labels=smooth_labels(batch["labels"], recipe.label_smoothing))
            accelerator.backward(output.loss if scales is None else output.loss * scales[number - 1])
        loss = output.loss.detach().float()
        run.loss_sum += loss if scales is None else loss * scales[number - 1]
        run.step += 1
        for observer in run.observers:
            observer.on_step_end(run, batch, loss, output.logits.detach())
    if recipe.max_grad_norm is not None:
        accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    run.updates += 1
    # One more update than foreseen can only come from a stream, whose length is an estimate.
    if not accelerator.optimizer_step_was_skipped and run.schedule.last_epoch < run.num_updates:
        run.schedule.step()
    if not accelerator.optimizer_step_was_skipped and run.average is not None:
        run.average.update(run.model, step=run.schedule.last_epoch)


def smooth_labels(labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Labels of 0 and 1 moved towards one half, by `smoothing / 2` each; unknown ones (-1 or NaN) stay."""
    return torch.where(labels >= 0, (1 - smoothing) * labels + smoothing / 2, labels) if smoothing else labels


def _scales(run: Run, group: list[dict[str, torch.Tensor]]) -> torch.Tensor | None:
    """Factors of the losses of a group of batches, one a batch, so that all of all processes act as one batch.

    DDP and FSDP take the mean of the processes' gradients, hence the number of processes. The same number tells the
    processes of each other's signals. Losses with statistics of the batch (the factors of `pg`) take those of each
    batch on its own; the mean over images of `mlsm` is exact where all labels are known.
    """
    processes = run.accelerator.num_processes
    if processes == 1 and len(group) == 1:
        return None
    known = torch.stack([(batch["labels"] >= 0).sum() for batch in group])
    total = known.sum()
    if processes > 1:
        wanted = torch.tensor(int(run.interruption.wanted), device=known.device)
        total, run.signals = run.accelerator.reduce(torch.stack([total, wanted]), reduction="sum").unbind()
    if getattr(run.model.loss_function, "reduction", "mean") == "sum":
        return torch.full_like(known, processes, dtype=torch.float32)
    return known * processes / total.clamp(min=1)


def _told_to_stop(run: Run) -> bool:
    """Whether a signal came to any process, as of the last update on a CPU, or of one of the last ten."""
    if run.signals is None:
        return run.interruption.wanted
    # Reading what the processes said to each other waits for the device.
    listens = run.accelerator.device.type == "cpu" or run.updates % _LISTEN_EVERY == 0
    return listens and bool(run.signals.item())


def _stop_if_wanted(run: Run) -> None:
    if run.stop_wanted():
        _stop(run)


def _stop(run: Run) -> None:
    if run.saved != (run.updates, run.phase):
        run.save_checkpoint()
    raise _interrupted(run)


def _interrupted(run: Run) -> TrainingInterruptedError:
    number = run.interruption.signal or signal.SIGTERM  # another process's
    return TrainingInterruptedError(
        f"stopped by {signal.Signals(number).name} at epoch {run.epoch}, step {run.step}, and saved; go on with "
        f"--output_dir {run.folder.path} --resume auto.",
        number,
    )


def _validate(run: Run) -> dict[str, Any]:
    """Judge this epoch, keep it if it is the best so far, and return its figures for the log."""
    judged = run.average.module if run.average is not None else run.prepared
    result = judge(run, judged, run.recipe.validation_split)
    score = -1.0 if result["map_total"] is None else result["map_total"]
    if run.best["epoch"] is None or score > run.best["score"]:
        state = full_state(run.average.module if run.average is not None else run.model)
        run.best.update(epoch=run.epoch, score=score, validation=result, state=state)
        if run.accelerator.is_main_process:
            run.folder.save_files(partial(run.model.save_pretrained, state_dict=dict(state)), "checkpoints/best")
    return {key: result[key] for key in MAP_FIGURES} | {"validation_probabilities": result["probabilities"]}


def judge(run: Run, judged: nn.Module, split: str) -> dict[str, Any]:
    """Judge weights on a split: what `long_tail_map` gives, and `probabilities`.

    Raises:
        FloatingPointError: A score is not finite.
        StopWantedError: A signal came.
    """
    if run.accelerator.num_processes > 1:
        # Statistics of BatchNorm are each process's own; those of the first are the ones that are saved.
        broadcast(list(judged.buffers()))
    # Lines in a file are not to be drawn over.
    description = None if run.quiet or not sys.stderr.isatty() else f"judging {split}"
    scores, labels = compute_scores(judged, run.loaders[split], run.accelerator, description, run.stop_wanted)
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"the scores of {split} are not finite after epoch {run.epoch}, although the losses were; {WHAT_TO_TRY}."
        )
    labels = align_labels(labels, label_names_of(run.data.splits[split]), run.data.label_names)
    config = run.model.config
    result = long_tail_map(
        scores, labels, run.data.class_counts, config.head_min, config.tail_max, label_names=run.data.label_names
    )
    return result | {"probabilities": group_probabilities(scores, labels, config.groups)}


def _set_train_mode(model: CSSFEForImageClassification, recipe: Recipe) -> None:
    model.train()
    backbone = model.cssfe.backbone
    if recipe.freeze_backbone:
        backbone.eval()
    elif recipe.freeze_batch_norm:
        for module in backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
    for layer in frozen_layers(recipe, model):
        layer.eval()


__all__ = ["fit", "judge", "smooth_labels", "train_epoch"]
