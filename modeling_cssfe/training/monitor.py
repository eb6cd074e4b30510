# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The observer that every run has: progress, losses that go wrong, probability curves, trackers, early stopping."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object

from .curves import draw_curves, read_log
from .divergence import LossMonitor
from .early_stopping import EarlyStopping
from .probability_curves import ProbabilityMeter
from .progress import TrainingProgress, duration, peak_gpu_memory
from .run import Observer, Run
from .tracking import flat_numbers, start_trackers


if TYPE_CHECKING:
    import datasets

_CHECK_EVERY = 10  # steps between two readings of the loss where reading waits


class RunMonitor(Observer):
    """Looks on at a run. Only `on_step_end` runs at each step, and it reads the device at every tenth at most.

    Args:
        run: The run to look on at, prepared.
    """

    name = "monitor"

    def __init__(self, run: Run):
        recipe, accelerator = run.recipe, run.accelerator
        self.accelerator = accelerator
        alone_on_cpu = accelerator.device.type == "cpu" and accelerator.num_processes == 1
        self.losses = LossMonitor(
            _ImageIds(run.data.splits.get(recipe.train_split)),
            every=1 if alone_on_cpu else _CHECK_EVERY,
            accelerator=accelerator,
        )
        self.probabilities = ProbabilityMeter(run.model.config.groups, accelerator.device)
        self.stopping = EarlyStopping(recipe.early_stopping_patience, recipe.early_stopping_min_delta)
        self.progress = TrainingProgress(
            recipe.epochs, run.quiet or not accelerator.is_main_process, accelerator.device
        )
        self.steps = 0
        self._tracking = False

    def on_epoch_start(self, run: Run) -> None:
        """Begin an epoch, or go on with one of which `run.step` batches are done."""
        if run.step == 0:
            self.probabilities.reset()
        self.progress.start_epoch(run.epoch, run.steps_per_epoch, run.step)

    def on_step_end(
        self, run: Run, batch: Mapping[str, torch.Tensor], loss: torch.Tensor, logits: torch.Tensor
    ) -> None:
        """Keep the step's loss and probabilities on the device."""
        self.steps += 1
        self.probabilities.update(logits, batch["labels"])
        checked = self.losses.step(run.epoch, run.step, loss, batch)
        recent = self.losses.recent_loss if checked else None
        self.progress.advance(len(logits) * run.accelerator.num_processes, recent)
        if checked and run.recipe.trackers:
            rate = max(group["lr"] for group in run.optimizer.param_groups)
            self._track(run, {"step/loss": recent, "step/learning_rate": rate})

    def on_steps_done(self, run: Run, entry: dict[str, Any]) -> None:
        """Close the epoch's training part, before it is judged."""
        self.progress.end_epoch()
        self.losses.check()  # what is judged and saved from here on comes from losses that were looked at
        entry["training_probabilities"] = self.probabilities.compute(run.accelerator)
        memory = peak_gpu_memory(run.accelerator.device)
        if memory is not None:
            entry["peak_gpu_memory_gib"] = round(memory, 3)

    def on_epoch_end(self, run: Run, entry: dict[str, Any]) -> None:
        """Show the epoch, and decide whether it was the last."""
        if run.recipe.trackers:
            self._track(run, flat_numbers(entry))
        self.progress.show(entry)
        if "map_total" in entry and self.stopping.update(entry["map_total"]):
            run.stop_reason = (
                f"early stopping: no evaluation in {self.stopping.evaluations_without_gain} was better than "
                f"{100 * (self.stopping.best or 0):.2f} mAP by more than {100 * self.stopping.min_delta:g}"
            )
            self.progress.say(f"{run.stop_reason}.")

    def on_run_end(self, run: Run, results: dict[str, Any]) -> None:
        """Say how the run ended, and draw its curves."""
        results["epochs_trained"] = run.epoch
        results["stop_reason"] = run.stop_reason
        self.progress.say(f"{run.epoch} epoch(s) in {duration(results['wall_time_seconds'])}")
        if not run.accelerator.is_main_process:
            return
        pictures = draw_curves(read_log(run.folder.path / "log.jsonl"))

        def save(path: os.PathLike) -> None:
            for name, picture in pictures.items():
                with open(os.path.join(path, name), "wb") as file:
                    file.write(picture)

        run.folder.save_files(save, "curves")

    def _track(self, run: Run, numbers: dict[str, Any]) -> None:
        if not self._tracking:  # not before a resumed run knows its step
            start_trackers(run.accelerator, run.recipe.trackers, run.folder.path, self.steps)
            self._tracking = True
        run.accelerator.log(numbers, step=self.steps)

    def close(self) -> None:
        """Give the terminal back, and let the trackers write what they still hold."""
        self.progress.end_epoch()
        # What `end_training` does as well, ending the group of processes, is for whoever starts no further run.
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values for JSON. All processes call it; it has the sums of each.

        Raises:
            FloatingPointError: The weights come from a loss that went wrong, and are not to be kept.
        """
        self.losses.check()
        own = {"losses": self.losses.state_dict(), "probabilities": self.probabilities.state_dict()}
        return {
            "steps": self.steps,
            "early_stopping": self.stopping.state_dict(),
            "processes": gather_object([own]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.steps = int(state["steps"])
        self.stopping.load_state_dict(state["early_stopping"])
        own = state["processes"][self.accelerator.process_index]
        self.losses.load_state_dict(own["losses"])
        self.probabilities.load_state_dict(own["probabilities"])


class _ImageIds:
    """Image ids of rows, looked up only when somebody asks."""

    def __init__(self, dataset: "datasets.Dataset | None"):
        self.dataset = dataset

    def __call__(self, rows: Sequence[int]) -> list[str]:
        if self.dataset is None:
            return [f"row {row}" for row in rows]
        return [str(name) for name in self.dataset.select(rows)["image_id"]]


__all__ = ["RunMonitor"]
