# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_cases import SPREAD_SCORES, columns, for_torchmetrics, in_fp64, known, scored_labels
from torchmetrics.functional.classification import binary_calibration_error

from modeling_cssfe.metrics import expected_calibration_error, per_class_calibration_error


def by_hand(scores, labels, num_bins):
    """Bin by bin with explicit edges."""
    error = 0.0
    for index in range(num_bins):
        low, high = index / num_bins, (index + 1) / num_bins
        inside = (scores >= low) & ((scores < high) | (index == num_bins - 1))
        if inside.any():
            error += inside.mean() * abs(scores[inside].mean() - labels[inside].mean())
    return error


@settings(max_examples=100, deadline=None)
@given(scored_labels(scores=SPREAD_SCORES), st.integers(1, 20))
def test_calibration_errors_are_those_of_a_loop_over_bins(case, num_bins):
    scores, labels = case
    mask = known(labels)
    pooled = expected_calibration_error(scores, labels, num_bins=num_bins)
    if mask.any():
        assert pooled == pytest.approx(by_hand(scores[mask], labels[mask], num_bins), abs=1e-9)
    else:
        assert pooled is None
    per_class = per_class_calibration_error(scores, labels, num_bins=num_bins)
    for value, (s, y) in zip(per_class, columns(scores, labels), strict=True):
        if y.any():
            assert value == pytest.approx(by_hand(s, y, num_bins), abs=1e-9)
        else:
            assert np.isnan(value)


@settings(max_examples=40, deadline=None)
@given(scored_labels(scores=SPREAD_SCORES))
def test_the_pooled_error_is_that_of_torchmetrics(case):
    if not known(case[1]).any():
        return
    scores, labels = for_torchmetrics(*case)
    with in_fp64():
        expected = binary_calibration_error(scores.flatten(), labels.flatten(), n_bins=15, norm="l1", ignore_index=-1)
    assert expected_calibration_error(scores, labels) == pytest.approx(float(expected), abs=1e-9)


def test_certain_and_right_scores_are_calibrated_and_certain_and_wrong_ones_are_not():
    assert expected_calibration_error([[1.0], [0.0]], [[1], [0]]) == 0
    assert expected_calibration_error([[1.0], [0.0]], [[0], [1]]) == 1


@pytest.mark.parametrize("function", [expected_calibration_error, per_class_calibration_error])
@pytest.mark.parametrize("score", [-0.25, 1.5])
def test_scores_that_are_no_probabilities_are_refused(function, score):
    with pytest.raises(ValueError, match=r"needs probabilities in \[0, 1\], got scores from .*apply a sigmoid"):
        function([[score], [0.5]], [[1], [0]])


def test_an_impossible_number_of_bins_is_refused():
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        expected_calibration_error([[0.5]], [[1]], num_bins=0)
