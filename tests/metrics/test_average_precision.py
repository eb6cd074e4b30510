# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from scored_cases import columns, for_torchmetrics, in_fp64, scored_labels
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import multilabel_average_precision

from modeling_cssfe.metrics import average_precision


def eleven_point_by_hand(scores, labels):
    """Every threshold and every recall level in turn, in exact fractions."""
    points = []
    for threshold in sorted(set(scores.tolist())):
        taken = labels[scores >= threshold]
        points.append((Fraction(int(taken.sum()), int(labels.sum())), Fraction(int(taken.sum()), len(taken))))
    levels = [Fraction(level, 10) for level in range(11)]
    return float(sum(max(p for r, p in points if r >= level) for level in levels) / 11)


@settings(max_examples=150, deadline=None)
@given(scored_labels())
def test_area_is_that_of_scikit_learn_for_every_class_that_has_positives(case):
    result = average_precision(*case)
    for value, (scores, labels) in zip(result, columns(*case), strict=True):
        if labels.any():
            assert value == pytest.approx(average_precision_score(labels, scores), abs=1e-9)
        else:
            assert np.isnan(value)


@settings(max_examples=60, deadline=None)
@given(scored_labels(min_classes=2))
def test_area_is_that_of_torchmetrics_with_unknown_labels_ignored(case):
    scores, labels = for_torchmetrics(*case)
    present = (labels == 1).any(dim=0)
    assume(present.sum() >= 2)  # torchmetrics takes neither a single class nor one without any known label
    scores, labels = scores[:, present], labels[:, present]
    with in_fp64():
        expected = multilabel_average_precision(
            scores, labels, num_labels=scores.shape[1], average=None, thresholds=None, ignore_index=-1
        )
    np.testing.assert_allclose(average_precision(scores, labels), expected.numpy(), rtol=0, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(scored_labels())
def test_eleven_point_is_that_of_a_walk_over_all_thresholds(case):
    result = average_precision(*case, method="11-point")
    for value, (scores, labels) in zip(result, columns(*case), strict=True):
        if labels.any():
            assert value == pytest.approx(eleven_point_by_hand(scores, labels), abs=1e-12)
        else:
            assert np.isnan(value)


def test_eleven_point_reaches_the_level_of_three_tenths_with_three_of_ten_positives():
    # Three positives, then ten negatives, then seven positives: precision 1 up to recall 0.3, then at most 10 / 20.
    labels = np.array([1] * 3 + [0] * 10 + [1] * 7)[:, None]
    scores = np.linspace(1, 0, 20)[:, None]
    assert average_precision(scores, labels, method="11-point")[0] == pytest.approx((4 * 1 + 7 * 0.5) / 11, abs=1e-12)


def test_tied_images_enter_the_curve_together():
    # Any order of the four would give something between 0.25 and 1.
    assert average_precision([[0.5]] * 4, [[0], [1], [0], [0]])[0] == 0.25


@pytest.mark.parametrize("method", ["area", "11-point"])
def test_a_perfect_ranking_has_one_and_a_single_image_too(method):
    assert average_precision([[0.9], [0.8], [0.1]], [[1], [1], [0]], method=method)[0] == 1
    assert average_precision([[0.1]], [[1]], method=method)[0] == 1


def test_a_class_without_positives_or_without_known_labels_is_nan():
    result = average_precision([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5]], [[0, -1, 1], [0, np.nan, 1]])
    assert np.isnan(result).tolist() == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_tensor_of_any_precision_is_ranked_as_its_values_are(dtype):
    generator = np.random.default_rng(0)
    scores = torch.tensor(generator.random((200, 3))).to(dtype)
    labels = torch.tensor(generator.random((200, 3)) < 0.2)
    expected = [average_precision_score(labels[:, c].numpy(), scores[:, c].double().numpy()) for c in range(3)]
    np.testing.assert_allclose(average_precision(scores.requires_grad_(), labels), expected, atol=1e-9)


def test_nearest_fp64_scores_are_no_tie():
    low = 0.5
    high = np.nextafter(low, 1)
    assert average_precision([[low], [high]], [[0], [1]])[0] == 1


def test_neither_the_order_of_images_nor_the_number_of_threads_nor_the_memory_layout_matters():
    generator = np.random.default_rng(1)
    # More than one group of classes and more than one block of rows.
    scores = generator.integers(0, 50, (5000, 37)) / 50
    labels = generator.choice([0, 0, 0, 1, -1], (5000, 37))
    expected = average_precision(scores, labels)
    order = generator.permutation(5000)
    np.testing.assert_array_equal(average_precision(scores[order], labels[order]), expected)
    np.testing.assert_array_equal(average_precision(scores, labels, num_workers=2), expected)
    np.testing.assert_array_equal(average_precision(scores, labels, num_workers=None), expected)
    np.testing.assert_array_equal(average_precision(np.asfortranarray(scores), labels[::1]), expected)
    by_class = [average_precision_score(y, s) for s, y in columns(scores, labels)]
    np.testing.assert_allclose(expected, by_class, atol=1e-9)


def test_the_caller_s_arrays_stay_as_they_were():
    scores, labels = np.array([[0.1], [0.9], [0.5]], dtype=np.float32), np.array([[1], [-1], [0]])
    copies = scores.copy(), labels.copy()
    average_precision(scores, labels)
    np.testing.assert_array_equal(scores, copies[0])
    np.testing.assert_array_equal(labels, copies[1])


def test_memory_is_that_of_a_group_of_classes_and_not_of_the_matrix():
    scores = np.random.default_rng(2).random((50_000, 160), dtype=np.float32)
    labels = (scores > 0.95).astype(np.int8)
    group = 16 * 50_000 * (4 + 1 + 1)  # 16 classes: fp32 scores and two masks
    tracemalloc.start()
    try:
        average_precision(scores, labels)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * group < scores.nbytes / 4


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"unknown average_precision_method '11point'.*Did you mean '11-point'\?"):
        average_precision([[0.5]], [[1]], method="11point")
