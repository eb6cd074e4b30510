# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Stopping a run whose loss is not finite or explodes, with the batch that did it.

Reading a loss waits for the accelerator, so losses stay where they are and are read together every few steps, with the
rows of their batches. A run therefore goes on for at most `every - 1` steps after the bad one; nothing is saved in
between, because a checkpoint and an evaluation call `check` first.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object


# A loss above this many running medians has exploded. Batches with a rare label lose ten or a hundred times the median
# late in a run; a thousand times was never seen in a run that recovered.
EXPLOSION = 1000.0
WHAT_TO_TRY = "lower learning_rate, set max_grad_norm (1.0), lengthen warmup_fraction, or use mixed_precision=no"
_HISTORY = 100  # losses that the running median is taken over
_FIRST = 20  # losses before which nothing counts as an explosion
_NAMED_IMAGES = 32


@dataclass
class _Step:
    """What is kept of a step until it is checked; tensors stay on the device."""

    epoch: int
    step: int
    loss: torch.Tensor
    rows: torch.Tensor | None
    names: Sequence[str] | None
    pixel_sums: torch.Tensor | None


class LossMonitor:
    """Checks the losses of training steps, a few at a time.

    A loss is bad when it is not finite, or when, after the run's first 20 losses, it exceeds both 1000 times the median
    of the last 100 and the median of the first 20: the second bound keeps a run that has reached a loss near 0 from
    being stopped by one hard batch.

    Args:
        image_ids: From rows of the training data to their image ids.
        every: Steps between two checks, >= 1.
        accelerator: Of several processes, where one stops all stop; `None` for a single process.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(
        self,
        image_ids: Callable[[Sequence[int]], Sequence[str]] | None = None,
        every: int = 10,
        accelerator: Accelerator | None = None,
    ):
        if every < 1:
            raise ValueError(f"every is {every}; check at least each step (1).")
        self.image_ids = image_ids
        self.every = every
        self.accelerator = accelerator
        self._kept: list[_Step] = []
        self._first: list[float] = []
        self._recent: deque[float] = deque(maxlen=_HISTORY)
        self._last: list[float] = []

    @property
    def recent_loss(self) -> float | None:
        """Mean of the losses of the last check; `None` before the first."""
        return sum(self._last) / len(self._last) if self._last else None

    def step(self, epoch: int, step: int, loss: torch.Tensor, batch: Mapping[str, Any]) -> bool:
        """Keep a step's loss; every so often, check.

        Args:
            epoch: From 1.
            step: Batch of the epoch, from 1.
            loss: Scalar; it is not read before the check.
            batch: The step's batch. Of it `image_id` (B texts) or else `index` `(B,)`, the rows of the training data,
                and `pixel_values` `(B, 3, H, W)` are used if there.

        Returns:
            Whether this step was one that checked.

        Raises:
            FloatingPointError: The loss of a step is not finite or has exploded.
        """
        pixels = batch.get("pixel_values")
        sums = None
        if torch.is_tensor(pixels) and pixels.is_floating_point():
            # One number an image, not finite if one of its values is not: it tells a bad image from bad weights.
            sums = pixels.detach().sum(dim=tuple(range(1, pixels.ndim)), dtype=torch.float32)
        self._kept.append(_Step(epoch, step, loss.detach().float(), batch.get("index"), batch.get("image_id"), sums))
        if len(self._kept) < self.every:
            return False
        self.check()
        return True

    def check(self) -> None:
        """Read the losses that were kept since the last check. Of several processes, all call it at the same step.

        Raises:
            FloatingPointError: The loss of a step is not finite or has exploded.
        """
        kept, self._kept = self._kept, []
        if not kept:
            return
        losses = torch.stack([step.loss for step in kept]).tolist()
        bad = next((at for at, loss in enumerate(losses) if self._is_bad(loss)), None)
        self._stop_all(None if bad is None else self._message(kept[bad], losses[bad]), bad, len(kept))
        self._last = losses

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values for JSON; call `check` before."""
        return {"first": list(self._first), "recent": list(self._recent)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self._kept, self._last = [], []
        self._first = list(state["first"])
        self._recent = deque(state["recent"], maxlen=_HISTORY)

    def _is_bad(self, loss: float) -> bool:
        if not math.isfinite(loss):
            return True
        if len(self._first) < _FIRST:
            self._first.append(loss)
        elif loss > max(EXPLOSION * median(self._recent), median(self._first)):
            return True
        self._recent.append(loss)
        return False

    def _stop_all(self, message: str | None, position: int | None, num_kept: int) -> None:
        if self.accelerator is not None and self.accelerator.num_processes > 1:
            mine = torch.tensor([num_kept if position is None else position], device=self.accelerator.device)
            positions = self.accelerator.gather(mine).tolist()
            if min(positions) == num_kept:
                return
            messages = gather_object([message or ""])
            message = messages[positions.index(min(positions))]
        if message is not None:
            raise FloatingPointError(message)

    def _message(self, step: _Step, loss: float) -> str:
        images = self._images(step)
        sums = [] if step.pixel_sums is None else step.pixel_sums.tolist()
        broken = [name for name, total in zip(images, sums, strict=False) if not math.isfinite(total)]
        how = f"is {loss}" if not math.isfinite(loss) else f"has exploded to {loss:.4g}"
        if math.isfinite(loss):
            how += f" from a median of {median(self._recent):.4g}"
        text = f"the loss {how} at epoch {step.epoch}, step {step.step}"
        if broken:
            return (
                f"{text}: {_listed(broken)} of the batch hold(s) values that are not finite; correct or remove "
                "what is named, or the transform that made it."
            )
        return f"{text}, with {_listed(images)}; {WHAT_TO_TRY}."

    def _images(self, step: _Step) -> list[str]:
        """What the images of a step are called; empty if nobody knows."""
        if step.names is not None:
            return [repr(name) for name in step.names]
        rows = [] if step.rows is None else step.rows.tolist()
        if self.image_ids is None:
            return [f"row {row}" for row in rows]
        return [repr(name) for name in self.image_ids(rows)]


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "a batch whose images are not known"
    more = f" and {len(names) - _NAMED_IMAGES} more" if len(names) > _NAMED_IMAGES else ""
    return f"image(s) {', '.join(names[:_NAMED_IMAGES])}{more}"


__all__ = ["EXPLOSION", "WHAT_TO_TRY", "LossMonitor"]
