# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The training loop: steps, epochs, the choice of the best epoch.

A `Run` is everything that the loop works on. Whoever wants to look on or to step in is an `Observer` in its list.
"""

import math
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast, send_to_device
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import nn

from ..data import label_names_of
from ..data.streaming import StreamingLoader
from ..metrics import long_tail_map
from ..modeling_cssfe import CSSFEForImageClassification
from .checkpoint import CheckpointStore
from .device_augmentation import DeviceAugmentation
from .evaluation import align_labels, compute_scores
from .interruption import Interruption, StopWantedError, TrainingInterruptedError
from .optimization import build_optimizer, build_schedule
from .preparation import RunData
from .probability_curves import group_probabilities
from .recipe import Recipe
from .run_folder import RunFolder
from .training_state import collect_state, full_state, load_full_state, run_identity


# Metrics of a run that results.json carries for the validation and the test split.
SUMMARY = ("map_total", "map_head", "map_medium", "map_tail")
# Updates between two looks at whether another process was told to stop, on GPUs.
_LISTEN_EVERY = 10


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

    def close(self) -> None:
        """Called when the run ends, however it ends."""

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
        augmentation: What is left to do with pixels on the device, with `augment_on_device`.
        interruption: Knows of signals to this process.
        epoch: The epoch under way, from 1.
        phase: How far it is: `step` while it trains, `trained` until it is judged, then `done`.
        step: Batches of this epoch that are done, on this process.
        updates: Optimizer updates so far.
        num_updates: Updates of the whole run; of a stream, an estimate.
        loss_sum: Sum of this process's parts of the losses of this epoch's updates, on the device.
        best: The best epoch so far: `epoch`, `score`, `validation` (its metrics), `state` (its weights), `test`.
        entry: Log entry of the epoch's training part.
        seconds_before: What the run took before it was resumed.
        best_file: Epoch whose weights a checkpoint holds already, and the file.
        signals: How many processes were told to stop, at the last update, on the device.
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
    augmentation: DeviceAugmentation | None = None
    interruption: Interruption = field(default_factory=Interruption)
    epoch: int = 1
    phase: str = "step"
    step: int = 0
    updates: int = 0
    num_updates: int = 0
    loss_sum: Any = None
    best: dict[str, Any] = field(
        default_factory=lambda: {"epoch": None, "score": -1.0, "validation": None, "state": None, "test": None}
    )
    entry: dict[str, Any] = field(default_factory=dict)
    seconds_before: float = 0.0
    best_file: tuple[int, Path] | None = None
    signals: Any = None
    stop_reason: str | None = None

    def __post_init__(self) -> None:
        self.started = time.perf_counter()
        self.checkpoints = CheckpointStore(self.folder.path / "checkpoints", self.recipe.checkpoints_kept)

    @property
    def seconds(self) -> float:
        """Seconds that the run took so far, those before it was resumed included."""
        return self.seconds_before + time.perf_counter() - self.started

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch on each process; of a stream, an estimate."""
        if isinstance(self.train_loader, StreamingLoader):
            images = len(self.data.splits[self.recipe.train_split]) / self.accelerator.num_processes
            return math.ceil(images / self.recipe.batch_size)
        return len(self.train_loader)

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
        if recipe.augment_on_device:
            self.augmentation = DeviceAugmentation.from_recipe(recipe, model.config, accelerator.device)
        if recipe.gradient_checkpointing:
            enable_activation_checkpointing(model)
        if recipe.sync_batch_norm and accelerator.num_processes > 1:
            self.model = model = convert_sync_batchnorm(model)
        self.average = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
        optimizer = build_optimizer(model, recipe)
        if recipe.compile:
            model.compile()
        # A stream is shared among the processes already.
        shared = {name: loader for name, loader in self.loaders.items() if not isinstance(loader, StreamingLoader)}
        self._train_sampler: Any = getattr(self.train_loader, "sampler", None)
        if accelerator.distributed_type == DistributedType.FSDP:
            # Accelerate asks for the embeddings of text models, and transformers raises for models of images.
            for name in ("get_input_embeddings", "get_output_embeddings"):
                setattr(model, name, lambda: None)
        self.prepared, self.optimizer, *loaders = accelerator.prepare(model, optimizer, *shared.values())
        self.loaders |= dict(zip(shared, loaders, strict=True))
        self.num_updates = recipe.epochs * math.ceil(self.steps_per_epoch / recipe.gradient_accumulation_steps)
        # Of the bare optimizer, whose groups the prepared one has as well; only the updates made here step it.
        self.schedule = build_schedule(self.optimizer.optimizer, recipe, self.num_updates)
        self.identity = run_identity(self)

    def set_epoch(self) -> None:
        """Tell the epoch to the order, the augmentation and the loss."""
        self.train_loader.set_epoch(self.epoch - 1)
        if self._train_sampler is not None:
            self._train_sampler.set_epoch(self.epoch - 1)
        criterion: Any = self.model.loss_function
        if hasattr(criterion, "set_epoch"):  # deferred re-weighting
            criterion.set_epoch(self.epoch - 1, self.recipe.epochs)

    def batches(self) -> Iterable[dict[str, torch.Tensor]]:
        """Yield what is left of the epoch, on the device."""
        if isinstance(self.train_loader, StreamingLoader):  # knows its place itself
            return (send_to_device(batch, self.accelerator.device, non_blocking=True) for batch in self.train_loader)
        if self.step:
            return self.accelerator.skip_first_batches(self.train_loader, self.step)
        return self.train_loader

    def stop_wanted(self) -> bool:
        """Whether a signal came to any process; all must ask."""
        if self.accelerator.num_processes == 1:
            return self.interruption.wanted
        wanted = torch.tensor(int(self.interruption.wanted), device=self.accelerator.device)
        return bool(self.accelerator.reduce(wanted, reduction="sum").item())

    def save_checkpoint(self) -> None:
        """Write a checkpoint of where the run is; all processes must call it.

        Raises:
            SavingError: It cannot be written; the older ones are as they were.
        """
        tensors, state = collect_state(self)
        if self.accelerator.is_main_process:
            reuse = {}
            if self.best["epoch"] is not None:
                if (
                    self.best_file is not None
                    and self.best_file[0] == self.best["epoch"]
                    and self.best_file[1].exists()
                ):
                    reuse["best"] = self.best_file[1]
                else:
                    tensors["best"] = self.best["state"]
            path = self.checkpoints.save(self.updates, self.phase, tensors, state, reuse)
            if self.best["epoch"] is not None:
                self.best_file = (self.best["epoch"], path / "best.safetensors")
        self.accelerator.wait_for_everyone()


def enable_activation_checkpointing(model: CSSFEForImageClassification) -> None:
    """Let the backward pass compute activations again."""
    # transformers has given the method another name on the way.
    enable: Any = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()


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
        if run.epoch % recipe.checkpoint_every_epochs == 0:
            run.save_checkpoint()
        _stop_if_wanted(run)
    load_full_state(run.model, run.best["state"])
    if recipe.test_split in run.loaders:
        try:
            run.best["test"] = judge(run, run.prepared, recipe.test_split)
        except StopWantedError:
            # The model holds the best weights by now: the last checkpoint is where to go on.
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
            output = model(pixel_values=pixels, labels=batch["labels"])
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
    if run.phase != "done" or run.epoch % run.recipe.checkpoint_every_epochs:
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
    return {key: result[key] for key in SUMMARY} | {"validation_probabilities": result["probabilities"]}


def judge(run: Run, judged: nn.Module, split: str) -> dict[str, Any]:
    """Judge weights on a split: what `long_tail_map` gives, and `probabilities`."""
    if run.accelerator.num_processes > 1:
        # Statistics of BatchNorm are each process's own; those of the first are the ones that are saved.
        broadcast(list(judged.buffers()))
    # Lines in a file are not to be drawn over.
    description = None if run.quiet or not sys.stderr.isatty() else f"judging {split}"
    scores, labels = compute_scores(judged, run.loaders[split], run.accelerator, description, run.stop_wanted)
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
