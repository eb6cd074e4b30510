# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
r"""Probabilities that mean what they say: temperature and bias of each group, fitted on validation data.

    probability = sigmoid(logit(score) / temperature + bias)

Temperature alone is Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2; with the bias it is
Platt scaling (Platt, "Probabilistic Outputs for Support Vector Machines", 1999), by group instead of by class, since a
tail class has too few positives for two parameters of its own.

The bias is on by default because temperature alone cannot repair what the losses of this field do: ASL, focal and
re-weighted losses move all logits to one side, while a temperature only stretches them around a probability of .5.
docs/thresholds.md has both, measured. It also takes up how frequent labels are in the validation data: where they are
rarer or more frequent in use, calibrated probabilities are off by that ratio of odds.

Calibration is monotonic within a class, so it moves no average precision; thresholds are kept on the uncalibrated
score, so it moves no decision either.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..configuration_cssfe import GROUPS
from ..metrics import expected_calibration_error
from .held_out import deal_into_folds
from .score_table import ScoreTable
from .thresholds import FEW_POSITIVES, logit_of


# Labels that the scores separate without a mistake ask for a temperature of 0; scores that say nothing, for infinity.
TEMPERATURE_BOUNDS = (0.05, 20.0)


@dataclass(frozen=True)
class GroupCalibration:
    """Temperature and bias of one group.

    Attributes:
        temperature: Divides the logit, > 0; above 1 makes scores less extreme.
        bias: Added to the divided logit.
        num_positives: Known positives it was fitted on.
        remark: What there is to know about these values, in words; empty if nothing.
    """

    temperature: float
    bias: float
    num_positives: int
    remark: str


@dataclass(frozen=True)
class Calibration:
    """What `fit_calibration` found.

    Attributes:
        groups: One entry for each group that has classes.
        ece_before: Group, or `"total"`, -> expected calibration error of the scores as they are, None without labels.
        ece_after: The same of probabilities calibrated without the images they are judged on.
    """

    groups: dict[str, GroupCalibration]
    ece_before: dict[str, float | None]
    ece_after: dict[str, float | None]

    @property
    def parameters(self) -> dict[str, dict[str, float]]:
        """Group -> `{"temperature", "bias"}`, as `CSSFEConfig.calibration` takes them."""
        return {name: {"temperature": group.temperature, "bias": group.bias} for name, group in self.groups.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)


def fit_calibration(table: ScoreTable, *, bias: bool = True, num_folds: int = 5, seed: int = 0) -> Calibration:
    """Fit temperature and bias of each group, and measure the calibration error before and after.

    Both minimise the binary cross-entropy of the group's known labels, a convex problem in `1 / temperature` and bias.
    A group without positives (or without negatives) keeps temperature 1 and bias 0; one with fewer than 10 positives
    takes the values of all classes together, or stays as it is if these have no more. The remark says so.

    Args:
        table: Scores and labels of validation images; unknown labels take no part.
        bias: Whether to fit a bias; without it, it is 0.
        num_folds: Folds for `ece_after`: each fold is calibrated by the parameters of the others.
        seed: Of the folds.

    Returns:
        Parameters of all images, and the errors.

    Raises:
        ValueError: `num_folds` is not from 2 to the number of images.
    """
    held_out = np.empty(table.scores.shape)
    for fold in deal_into_folds(table, num_folds, seed):
        rest = _fit_groups(table.select(np.setdiff1d(np.arange(len(table.image_ids)), fold)), bias)
        held_out[fold] = _calibrate(table.scores[fold], table.groups, rest)
    return Calibration(
        _fit_groups(table, bias), calibration_errors(table, table.scores), calibration_errors(table, held_out)
    )


def apply_calibration(
    scores: np.ndarray, groups: Sequence[str], parameters: Mapping[str, Mapping[str, float]]
) -> np.ndarray:
    """Calibrate scores.

    Args:
        scores: `(..., C)` probabilities of the sigmoid.
        groups: The group of each class, length C.
        parameters: Group -> `{"temperature", "bias"}`; a missing group is left as it is, a missing bias is 0.

    Returns:
        fp64 probabilities of the same shape.
    """
    values = [parameters.get(group, {}) for group in groups]
    temperature = np.array([value.get("temperature", 1.0) for value in values])
    bias = np.array([value.get("bias", 0.0) for value in values])
    return 1 / (1 + np.exp(-(logit_of(np.asarray(scores, dtype=np.float64)) / temperature + bias)))


def calibration_errors(table: ScoreTable, probabilities: np.ndarray) -> dict[str, float | None]:
    """Expected calibration error of the known labels of each group, and of all (`"total"`).

    Args:
        table: Labels and groups.
        probabilities: `(N, C)` in [0, 1].

    Returns:
        `"total"` and each group that has classes -> a fraction, or None where no label is known.
    """
    groups = np.array(table.groups)
    columns = {"total": np.ones(len(groups), dtype=bool)} | {g: groups == g for g in GROUPS if g in groups}
    return {
        name: expected_calibration_error(probabilities[:, mask], table.labels[:, mask])
        for name, mask in columns.items()
    }


def _calibrate(scores: np.ndarray, groups: Sequence[str], fitted: Mapping[str, GroupCalibration]) -> np.ndarray:
    return apply_calibration(
        scores, groups, {name: {"temperature": g.temperature, "bias": g.bias} for name, g in fitted.items()}
    )


def _fit_groups(table: ScoreTable, bias: bool) -> dict[str, GroupCalibration]:
    groups = np.array(table.groups)
    together = _fit_columns(table, np.ones(len(groups), dtype=bool), bias)
    fitted = {}
    for name in (group for group in GROUPS if group in groups):
        found = _fit_columns(table, groups == name, bias)
        if 0 < found.num_positives < FEW_POSITIVES <= together.num_positives:
            # Two parameters from so few positives are mostly chance, and often separate them without a mistake.
            remark = f"fewer than {FEW_POSITIVES} positives: the values of all classes together"
            found = replace(together, num_positives=found.num_positives, remark=remark)
        fitted[name] = found
    return fitted


def _fit_columns(table: ScoreTable, columns: np.ndarray, bias: bool) -> GroupCalibration:
    """Fit the known labels of some classes."""
    labels = table.labels[:, columns]
    known = labels >= 0
    positive = labels[known] == 1
    count = int(positive.sum())
    if count in (0, positive.size):
        return GroupCalibration(
            1.0, 0.0, count, f"no {'negatives' if count else 'positives'} to calibrate by: left as it is"
        )
    if count < FEW_POSITIVES:
        return GroupCalibration(1.0, 0.0, count, f"fewer than {FEW_POSITIVES} positives: left as it is")
    slope, offset = _fit(logit_of(table.scores[:, columns][known]), positive, bias)
    remark = ""
    if not TEMPERATURE_BOUNDS[0] * 1.001 < 1 / slope < TEMPERATURE_BOUNDS[1] * 0.999:
        remark = "temperature at its bound: the scores separate these labels without a mistake, or not at all"
    return GroupCalibration(1 / slope, offset, count, remark)


def _fit(logits: np.ndarray, positive: np.ndarray, with_bias: bool) -> tuple[float, float]:
    """Slope `1 / temperature` and bias with the least binary cross-entropy."""
    from scipy.optimize import minimize

    signs = np.where(positive, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        margins = signs * (parameters[0] * logits + parameters[1])
        slopes = -signs / (1 + np.exp(np.clip(margins, -700, 700))) / len(logits)
        value = np.logaddexp(0, -margins).mean()
        return float(value), np.array([slopes @ logits, slopes.sum()])

    bounds = [(1 / TEMPERATURE_BOUNDS[1], 1 / TEMPERATURE_BOUNDS[0]), (None, None) if with_bias else (0.0, 0.0)]
    # The loss is a mean over mostly easy negatives, so gradients are small long before the minimum.
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 1000}
    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return float(found.x[0]), float(found.x[1])


__all__ = [
    "TEMPERATURE_BOUNDS",
    "Calibration",
    "GroupCalibration",
    "apply_calibration",
    "calibration_errors",
    "fit_calibration",
]
