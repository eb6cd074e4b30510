# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a run shows while it trains: one moving line on a terminal, plain lines anywhere else.

The moving line goes to standard error, so that standard output holds nothing but the line of each epoch and the tables
of the end.
"""

import contextlib
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from transformers.utils import logging as transformers_logging

from ..common.tables import percent
from ..configuration_cssfe import GROUPS


_REFRESH_SECONDS = 0.25
_PLAIN_SECONDS = 60.0  # between two plain lines within an epoch
_COLUMNS = ("map_total", *(f"map_{group}" for group in GROUPS))


class TrainingProgress:
    """Shows loss, mAP by group, images/s, time left and GPU memory.

    Nothing here waits for the device: the loss is shown when somebody else has read it, and GPU memory is the peak that
    torch's allocator has counted.

    Args:
        epochs: Of the whole run.
        quiet: Show nothing at all.
        device: Whose memory is shown, if it is a CUDA device.
        console: Where the moving line goes; standard error by default. One that is no terminal gets plain lines: at
            the end of each epoch, and each minute within one.
        clock: Seconds, ever growing.
    """

    def __init__(
        self,
        epochs: int,
        quiet: bool = False,
        device: torch.device | str = "cpu",
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.epochs = epochs
        self.quiet = quiet
        self.device = torch.device(device)
        self.console = console or Console(stderr=True)
        self._clock = clock
        self._bar: Progress | None = None
        self._task: Any = None
        self._judged = ""
        self._loss: float | None = None
        self._started: float | None = None
        self._steps_done = self._images = 0
        self._epoch = self._num_steps = self._step = 0
        self._epoch_started = self._shown = self._clock()

    def start_epoch(self, epoch: int, num_steps: int, first_step: int = 0) -> None:
        """Begin an epoch.

        Args:
            epoch: From 1.
            num_steps: Batches of the epoch on this process.
            first_step: Batches that an interrupted run had done already.
        """
        self._epoch, self._num_steps, self._step = epoch, num_steps, first_step
        self._images = 0
        self._epoch_started = self._shown = self._clock()
        if self._started is None:
            self._started = self._clock()
        if self.quiet or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console,
            transient=True,
            auto_refresh=False,  # a thread of its own would be copied into loader processes
        )
        self._bar.start()
        self._task = self._bar.add_task(f"epoch {epoch}/{self.epochs}", total=num_steps, completed=first_step, facts="")

    def advance(self, num_images: int, loss: float | None = None) -> None:
        """Count a step.

        Args:
            num_images: Images of the step on all processes.
            loss: A loss that is on the CPU anyway; `None` shows the one before.
        """
        self._step += 1
        self._steps_done += 1
        self._images += num_images
        self._loss = self._loss if loss is None else loss
        now = self._clock()
        if self._bar is not None and now - self._shown >= _REFRESH_SECONDS:
            self._shown = now
            self._bar.update(self._task, completed=self._step, facts=self.facts())
            self._bar.refresh()
        elif self._bar is None and not self.quiet and now - self._shown >= _PLAIN_SECONDS:
            self._shown = now
            self.say(f"epoch {self._epoch:>3}/{self.epochs}  step {self._step}/{self._num_steps}  {self.facts()}")

    def facts(self) -> str:
        """What stands behind the bar."""
        elapsed = self._clock() - self._epoch_started
        facts = [] if self._loss is None else [f"loss {self._loss:.4f}"]
        facts += [f"{self._images / elapsed:.0f} images/s"] if elapsed > 0 and self._images else []
        left = self.seconds_left()
        facts += [] if left is None else [f"{duration(left)} left"]
        memory = peak_gpu_memory(self.device)
        facts += [] if memory is None else [f"{memory:.1f} GiB"]
        facts += [self._judged] if self._judged else []  # last: a narrow terminal cuts it off
        return "  ".join(facts)

    def seconds_left(self) -> float | None:
        """Seconds to the end of the run at the pace so far, evaluations included; `None` before the first step."""
        if self._started is None or not self._steps_done:
            return None
        left = (self.epochs - self._epoch) * self._num_steps + self._num_steps - self._step
        return left * (self._clock() - self._started) / self._steps_done

    def end_epoch(self) -> None:
        """Take the moving line away, so that an evaluation can show its own."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def show(self, entry: Mapping[str, Any]) -> None:
        """Print the line of an epoch and keep its mAP for the next one's bar.

        Args:
            entry: A line of `log.jsonl`.
        """
        judged = judged_text(entry)
        self._judged = judged or self._judged
        line = f"epoch {entry['epoch']:>3}/{self.epochs}  loss {entry['loss']:.4f}"
        self.say(f"{line}  {entry['images_per_second']:.0f} images/s" + (f"  {judged}" if judged else ""))

    def say(self, line: str) -> None:
        """Print a line, unless quiet or nobody reads any more: `| head` ends no run."""
        if not self.quiet:
            try:
                print(line, flush=True)
            except BrokenPipeError:
                self.quiet = True


def judged_text(entry: Mapping[str, Any]) -> str:
    """`mAP total/head/medium/tail 50.0 / ...` of a log entry; nothing if it was not judged."""
    if "map_total" not in entry:
        return ""
    return "mAP total/head/medium/tail " + " / ".join(percent(entry[key]) for key in _COLUMNS)


def duration(seconds: float) -> str:
    """Seconds as `1:02:03`, or `2 days, 1:02:03`."""
    days, rest = divmod(math.ceil(seconds), 86400)
    text = f"{rest // 3600}:{rest % 3600 // 60:02}:{rest % 60:02}"
    return f"{days} day{'s' if days > 1 else ''}, {text}" if days else text


def peak_gpu_memory(device: torch.device | str) -> float | None:
    """GiB that torch has had allocated on a CUDA device at most; `None` elsewhere. Does not wait for the device."""
    if torch.device(device).type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / 2**30


@contextlib.contextmanager
def without_library_bars(wanted: bool):
    """Let transformers and huggingface_hub show no bars of their own meanwhile, if that is wanted."""
    if not wanted or not transformers_logging.is_progress_bar_enabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


__all__ = ["TrainingProgress", "duration", "judged_text", "peak_gpu_memory", "without_library_bars"]
