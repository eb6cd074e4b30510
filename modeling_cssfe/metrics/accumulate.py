# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`long_tail_map` over batches, for training and evaluation loops."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .average_precision import AVERAGE_PRECISION_METHODS
from .calibration import DEFAULT_BINS
from .inputs import check_choice, check_label_names, check_positive_integer, check_scored_labels
from .long_tail import check_groups, long_tail_map
from .threshold_metrics import DEFAULT_THRESHOLD, check_decision


class LongTailMeanAveragePrecision:
    """Collect scores batch by batch and evaluate them together.

    The interface is that of torchmetrics (`update`, `compute`, `reset`), which need not be installed. Nothing is
    gathered across processes: gather a batch first (`accelerator.gather_for_metrics`), which also drops the images that
    padded the last batch.

    Memory: 5 bytes a score (fp32 scores, int8 labels), and as much again while `compute` joins the batches. fp64 scores
    are rounded to fp32, so that two scores that differ by less become a tie.

    Args:
        class_counts: Training images of each class.
        head_min: Smallest count of a head class.
        tail_max: Counts below it are tail.
        label_names: Names of the classes.
        threshold: As in `long_tail_map`, likewise the rest.
        top_k: The number of labels an image gets, in place of a threshold.
        average_precision_method: `"area"` or `"11-point"`.
        num_bins: Bins of the calibration error.
        num_workers: Threads; `None` takes one a core.

    Raises:
        ValueError: A switch is invalid; checked here, before the first batch is computed.
        TypeError: Likewise.

    Examples:
        >>> from modeling_cssfe.metrics import LongTailMeanAveragePrecision
        >>> metric = LongTailMeanAveragePrecision([775, 4], label_names=["person", "cow"])
        >>> metric.update([[0.9, 0.2], [0.8, 0.7]], [[1, 0], [0, 1]])
        >>> metric.update([[0.3, 0.8]], [[1, 0]])
        >>> result = metric.compute()
        >>> round(result["map_head"], 4), result["map_tail"]
        (0.8333, 0.5)
        >>> metric.reset()
    """

    def __init__(
        self,
        class_counts: Sequence[int] | np.ndarray,
        head_min: int = 100,
        tail_max: int = 20,
        *,
        label_names: Sequence[str] | None = None,
        threshold: float | Sequence[float] | np.ndarray = DEFAULT_THRESHOLD,
        top_k: int | None = None,
        average_precision_method: str = "area",
        num_bins: int = DEFAULT_BINS,
        num_workers: int | None = 1,
    ):
        self.num_classes = int(np.size(class_counts))
        self._class_counts, _ = check_groups(class_counts, self.num_classes, head_min, tail_max)
        check_label_names(label_names, self.num_classes)
        check_decision(threshold, top_k, self.num_classes)
        check_choice("average_precision_method", average_precision_method, AVERAGE_PRECISION_METHODS)
        check_positive_integer("num_bins", num_bins)
        self._options: dict[str, Any] = {
            "head_min": head_min,
            "tail_max": tail_max,
            "label_names": label_names,
            "threshold": threshold,
            "top_k": top_k,
            "average_precision_method": average_precision_method,
            "num_bins": num_bins,
            "num_workers": num_workers,
        }
        self._scores: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(batch) for batch in self._scores)

    def update(self, scores: Any, references: Any) -> None:
        """Add a batch; a batch that is refused leaves the metric as it was.

        Args:
            scores: `(batch, C)` array, tensor on any device, or nested lists.
            references: `(batch, C)` with 1, 0, and -1 or NaN for unknown.

        Raises:
            ValueError: Invalid scores or references, or another number of classes than `class_counts` has.
            TypeError: The input does not consist of numbers.
        """
        data = check_scored_labels(scores, references)
        if data.num_classes != self.num_classes:
            raise ValueError(
                f"the batch has {data.num_classes} classes but class_counts has {self.num_classes}; "
                "pass one column a class."
            )
        labels = np.full(data.references.shape, -1, dtype=np.int8)
        labels[data.references == 1] = 1
        labels[data.references == 0] = 0
        # A copy: the caller may reuse its buffer for the next batch.
        self._scores.append(np.array(data.scores, dtype=np.float32))
        self._labels.append(labels)

    def compute(self) -> dict[str, Any]:
        """Evaluate all batches since the last `reset`.

        Returns:
            The dictionary of `long_tail_map`.

        Raises:
            ValueError: There is no batch yet.
        """
        if not self._scores:
            raise ValueError("there is nothing to compute; call update(scores, references) first.")
        return long_tail_map(
            np.concatenate(self._scores), np.concatenate(self._labels), self._class_counts, **self._options
        )

    def reset(self) -> None:
        """Forget all batches."""
        self._scores.clear()
        self._labels.clear()
