# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The training loop: steps, epochs, the choice of the best epoch.

A `Run` is everything that the loop works on. Whoever wants to look on or to step in is an `Observer` in its list.
"""

import math
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn

from ..data import label_names_of
from ..metrics import long_tail_map
from ..modeling_cssfe import CSSFEForImageClassification
from .evaluation import align_labels, compute_scores
from .optimization import build_optimizer, build_schedule
from .preparation import RunData
from .probability_curves import group_probabilities
from .recipe import Recipe
from .run_folder import RunFolder


# Metrics of a run that results.json carries for the validation and the test split.
SUMMARY = ("map_total", "map_head", "map_medium", "map_tail")


class Observer:
    """Looks on at a run, on every process; each method does nothing unless a subclass gives it something to do.

    Give a subclass whose state must survive an interruption a `name` of its own, `state_dict` and `load_state_dict`.
    """

    name = ""

    def on_epoch_start(self, run: "Run") -> None:
        """Called before the first batch of an epoch, or of what an interruption left of it (`run.step` is not 0)."""

    def on_step_end(self, run: "Run", batch: dict[str, torch.Tensor], loss: torch.Tensor, logits: torch.Tensor) -> None:
        """Called after each batch with its loss and logits, which lie on the device: reading them waits for it."""

    def on_steps_done(self, run: "Run", entry: dict[str, Any]) -> None:
        """Called after the last batch of an epoch, before its evaluation; may add to the entry of `log.jsonl`."""

    def on_epoch_end(self, run: "Run", entry: dict[str, Any]) -> None:
        """Called after an epoch and its evaluation; may add to the entry of `log.jsonl`, or set `run.stop_reason`."""

    def on_run_end(self, run: "Run", results: dict[str, Any]) -> None:
        """Called before the results are written; may add to them."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of this observer: plain values, for JSON.

        Called on every process before anything is written; what the main process returns is kept for all. Raise what
        forbids a checkpoint.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` gave."""


@dataclass
class Run:
    """A run under way.

    Args:
        recipe: What to do.
        data: The splits and what is known of their classes.
        folder: Where results go.
        accelerator: Devices and processes.
        model: The model itself.
        loaders: One a split; prepared by the accelerator once `prepare` has run.
        observers: Called in this order.
        quiet: Print nothing.
        prepared: The model as the accelerator wraps it.
        average: The moving average of the weights, if the recipe asks for one.
        optimizer: Prepared.
        schedule: Stepped once an update.
        epoch: The epoch under way, from 1.
        step: Batches of this epoch that are done, on this process.
        updates: Optimizer updates so far.
        loss_sum: Sum of the losses of this epoch's batches, on the device.
        best: The best epoch so far: `epoch`, `score`, `validation` (its metrics), `state` (its weights), `test`.
        stop_reason: Set to end the run after this epoch.
    """

    recipe: Recipe
    data: RunData
    folder: RunFolder
    accelerator: Accelerator
    model: CSSFEForImageClassification
    loaders: dict[str, Any]
    observers: list[Observer] = field(default_factory=list)
    quiet: bool = False
    prepared: Any = None
    average: ModelEmaV3 | None = None
    optimizer: Any = None
    schedule: Any = None
    epoch: int = 1
    step: int = 0
    updates: int = 0
    loss_sum: Any = None
    best: dict[str, Any] = field(
        default_factory=lambda: {"epoch": None, "score": -1.0, "validation": None, "state": None, "test": None}
    )
    stop_reason: str | None = None

    @property
    def train_loader(self) -> Any:
        """The loader of the training split."""
        return self.loaders[self.recipe.train_split]

    def prepare(self) -> None:
        """Move the model to the device, build optimizer and schedule, and share the loaders among the processes."""
        recipe, accelerator, model = self.recipe, self.accelerator, self.model
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        model.to(accelerator.device)
        self.average = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        optimizer = build_optimizer(model, recipe)
        updates_per_epoch = math.ceil(
            len(self.train_loader) / accelerator.num_processes / recipe.gradient_accumulation_steps
        )
        self.schedule = build_schedule(optimizer, recipe, recipe.epochs * updates_per_epoch)
        if recipe.compile:
            model.compile()
        self._train_sampler: Any = self.train_loader.sampler
        self.prepared, self.optimizer, *loaders = accelerator.prepare(model, optimizer, *self.loaders.values())
        self.loaders = dict(zip(self.loaders, loaders, strict=True))

    def set_epoch(self) -> None:
        """Tell the epoch to the order, the augmentation and the loss."""
        self.train_loader.set_epoch(self.epoch - 1)
        self._train_sampler.set_epoch(self.epoch - 1)
        if hasattr(self.model.criterion, "set_epoch"):  # deferred re-weighting
            self.model.criterion.set_epoch(self.epoch - 1, self.recipe.epochs)


def fit(run: Run) -> None:
    """Train for all epochs; leave the best epoch's results in `run.best` and its weights in the model."""
    recipe, accelerator = run.recipe, run.accelerator
    for epoch in range(run.epoch, recipe.epochs + 1):
        run.epoch = epoch
        run.set_epoch()
        entry = train_epoch(run)
        if run.epoch % recipe.evaluate_every == 0 or run.epoch == recipe.epochs:
            entry |= _validate(run)
        for observer in run.observers:
            observer.on_epoch_end(run, entry)
        if accelerator.is_main_process:
            run.folder.append_log(entry)
        if run.stop_reason is not None:
            break
    run.model.load_state_dict(run.best["state"])
    if recipe.test_split in run.loaders:
        run.best["test"] = judge(run, run.prepared, recipe.test_split)


def train_epoch(run: Run) -> dict[str, Any]:
    """Train for one epoch, and return its line of the log as far as it is known."""
    recipe, accelerator, model = run.recipe, run.accelerator, run.prepared
    _set_train_mode(accelerator.unwrap_model(model), recipe)
    started, images = time.perf_counter(), 0
    run.loss_sum = torch.zeros((), device=accelerator.device)
    run.step = 0
    for observer in run.observers:
        observer.on_epoch_start(run)
    for batch in run.train_loader:
        with accelerator.accumulate(model):
            pixels = batch["pixel_values"]
            if recipe.channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            output = model(pixel_values=pixels, labels=batch["labels"])
            accelerator.backward(output.loss)
            if accelerator.sync_gradients and recipe.max_grad_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            run.optimizer.step()
            if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                run.schedule.step()
                if run.average is not None:
                    run.average.update(accelerator.unwrap_model(model), step=run.schedule.last_epoch)
            run.optimizer.zero_grad()
        loss = output.loss.detach().float()
        run.loss_sum += loss
        run.step += 1
        images += len(pixels) * accelerator.num_processes
        for observer in run.observers:
            observer.on_step_end(run, batch, loss, output.logits.detach())
    loss_value = run.loss_sum.item() / max(run.step, 1)  # waits for the device
    elapsed = time.perf_counter() - started
    entry = {
        "epoch": run.epoch,
        "loss": loss_value,
        "learning_rate": max(group["lr"] for group in run.optimizer.param_groups),
        "images_per_second": round(images / elapsed, 2),
        "seconds": round(elapsed, 3),
    }
    for observer in run.observers:
        observer.on_steps_done(run, entry)
    return entry


def _validate(run: Run) -> dict[str, Any]:
    """Judge this epoch, keep it if it is the best so far, and return its figures for the log."""
    judged = run.average.module if run.average is not None else run.prepared
    result = judge(run, judged, run.recipe.validation_split)
    score = -1.0 if result["map_total"] is None else result["map_total"]
    if run.best["epoch"] is None or score > run.best["score"]:
        state = (run.average.module if run.average is not None else run.model).state_dict()
        state = {key: value.detach().cpu().clone() for key, value in state.items()}
        run.best.update(epoch=run.epoch, score=score, validation=result, state=state)
        if run.accelerator.is_main_process:
            run.folder.save_files(partial(run.model.save_pretrained, state_dict=dict(state)), "checkpoints/best")
    return {key: result[key] for key in SUMMARY} | {"validation_probabilities": result["probabilities"]}


def judge(run: Run, judged: nn.Module, split: str) -> dict[str, Any]:
    """Judge weights on a split: what `long_tail_map` gives, and `probabilities`."""
    scores, labels = compute_scores(judged, run.loaders[split], run.accelerator, f"judging {split}")
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


__all__ = ["SUMMARY", "Observer", "Run", "fit", "judge", "train_epoch"]
