# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A run under way, and who looks on.

A `Run` is everything that the loop works on. Whoever wants to look on or to step in is an `Observer` in its list.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, send_to_device
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3

from ..data.streaming import StreamingLoader
from ..modeling_cssfe import CSSFEForImageClassification
from ..recipes import Recipe
from .checkpoint import CheckpointStore
from .device_augmentation import DeviceAugmentation
from .epoch_loader import EpochLoader
from .interruption import Interruption
from .optimization import build_optimizer, build_schedule
from .preparation import RunData
from .run_folder import RunFolder
from .training_state import collect_state, run_identity


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
        loaders: One a split; once `prepare` has run, that of the training split is an `EpochLoader` or a stream, and
            the others are prepared by the accelerator.
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
        saved: Updates and phase of the last checkpoint that this process has seen written.
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
    saved: tuple[int, str] | None = None
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
        if recipe.ema_decay:
            self.average = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup)
        optimizer = build_optimizer(model, recipe)
        if recipe.compile:
            model.compile()
        # A stream is shared among the processes already, and the training split's loader shares itself.
        shared = {name: loader for name, loader in self.loaders.items() if name != recipe.train_split}
        if not isinstance(self.train_loader, StreamingLoader):
            self.loaders[recipe.train_split] = EpochLoader(self.train_loader, accelerator, recipe.epochs)
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
        """Tell the epoch to the loss, and to a stream."""
        if isinstance(self.train_loader, StreamingLoader):
            self.train_loader.set_epoch(self.epoch - 1)
        criterion: Any = self.model.loss_function
        if hasattr(criterion, "set_epoch"):  # deferred re-weighting
            criterion.set_epoch(self.epoch - 1, self.recipe.epochs)

    def batches(self) -> Iterable[dict[str, torch.Tensor]]:
        """Yield what is left of the epoch, on the device."""
        if isinstance(self.train_loader, StreamingLoader):  # knows its place itself
            return (send_to_device(batch, self.accelerator.device, non_blocking=True) for batch in self.train_loader)
        return self.train_loader.batches(self.epoch - 1, done=self.step)

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
                epoch, file = self.best_file or (None, Path())
                if epoch == self.best["epoch"] and file.exists():
                    reuse["best"] = file
                else:
                    tensors["best"] = self.best["state"]
            path = self.checkpoints.save(self.updates, self.phase, tensors, state, reuse)
            if self.best["epoch"] is not None:
                self.best_file = (self.best["epoch"], path / "best.safetensors")
        self.saved = (self.updates, self.phase)
        self.accelerator.wait_for_everyone()


def enable_activation_checkpointing(model: CSSFEForImageClassification) -> None:
    """Let the backward pass compute activations again."""
    # transformers has given the method another name on the way.
    enable: Any = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
    enable()


__all__ = ["Observer", "Run", "enable_activation_checkpointing"]
