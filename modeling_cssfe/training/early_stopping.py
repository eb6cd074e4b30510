# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Stopping when validation no longer improves."""

import math
from collections.abc import Mapping
from typing import Any


class EarlyStopping:
    """Counts evaluations without improvement.

    An evaluation improves when its score is higher than the best so far by more than `min_delta`. The best so far then
    moves up; smaller gains do not move it, so that many of them in a row still count as one improvement.

    Args:
        patience: Evaluations without improvement after which to stop, >= 1; `None` never stops.
        min_delta: Gain that counts, >= 0, in the score's own unit (mAP as a fraction: .001 is a tenth of a point).

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, patience: int | None, min_delta: float = 0.0):
        if patience is not None and patience < 1:
            raise ValueError(f"early_stopping_patience is {patience}; give a number of evaluations >= 1 or null.")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"early_stopping_min_delta is {min_delta}; give a gain >= 0.")
        self.patience = patience
        self.min_delta = min_delta
        self.best: float | None = None
        self.evaluations_without_gain = 0

    def update(self, score: float | None) -> bool:
        """Take in an evaluation's score (higher is better; `None` or NaN improves nothing); return whether to stop."""
        improved = (
            score is not None and not math.isnan(score) and (self.best is None or score > self.best + self.min_delta)
        )
        if improved:
            self.best, self.evaluations_without_gain = score, 0
        else:
            self.evaluations_without_gain += 1
        return self.stops

    @property
    def stops(self) -> bool:
        """Whether the run has waited long enough."""
        return self.patience is not None and self.evaluations_without_gain >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values for JSON."""
        return {"best": self.best, "evaluations_without_gain": self.evaluations_without_gain}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict()`."""
        self.best = state["best"]
        self.evaluations_without_gain = int(state["evaluations_without_gain"])


__all__ = ["EarlyStopping"]
