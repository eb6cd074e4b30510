# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch

from modeling_cssfe.metrics import LongTailMeanAveragePrecision, long_tail_map


COUNTS = [500, 40, 3]


@pytest.fixture
def case():
    generator = np.random.default_rng(0)
    scores = generator.random((30, 3), dtype=np.float32)
    labels = generator.choice([0.0, 1.0, -1.0, np.nan], (30, 3), p=[0.5, 0.3, 0.1, 0.1])
    return scores, labels


def test_batches_of_any_size_and_kind_give_what_all_images_at_once_give(case):
    scores, labels = case
    metric = LongTailMeanAveragePrecision(COUNTS, label_names=["a", "b", "c"], threshold=[0.2, 0.5, 0.7])
    metric.update(scores[:1].tolist(), labels[:1].tolist())
    metric.update(torch.tensor(scores[1:20], requires_grad=True), torch.tensor(labels[1:20]))
    metric.update(scores[20:], labels[20:])
    assert len(metric) == 30
    expected = long_tail_map(scores, labels, COUNTS, label_names=["a", "b", "c"], threshold=[0.2, 0.5, 0.7])
    assert metric.compute() == expected
    assert metric.compute() == expected  # computing forgets nothing


def test_a_buffer_that_is_used_again_does_not_change_what_was_added(case):
    scores, labels = case
    metric = LongTailMeanAveragePrecision(COUNTS)
    buffer = scores.copy()
    metric.update(buffer, labels)
    buffer[:] = 0
    assert metric.compute() == long_tail_map(scores, labels, COUNTS)


def test_reset_forgets_all_batches(case):
    scores, labels = case
    metric = LongTailMeanAveragePrecision(COUNTS)
    metric.update(1 - scores, labels)
    metric.reset()
    assert len(metric) == 0
    with pytest.raises(ValueError, match="nothing to compute; call update"):
        metric.compute()
    metric.update(scores, labels)
    assert metric.compute() == long_tail_map(scores, labels, COUNTS)


def test_a_refused_batch_leaves_the_metric_as_it_was(case):
    scores, labels = case
    metric = LongTailMeanAveragePrecision(COUNTS)
    metric.update(scores, labels)
    with pytest.raises(ValueError, match="is nan"):
        metric.update(np.full((2, 3), np.nan), np.ones((2, 3)))
    with pytest.raises(ValueError, match="the batch has 2 classes but class_counts has 3"):
        metric.update(scores[:, :2], labels[:, :2])
    with pytest.raises(ValueError, match=r"got \(30, 3\) and \(29, 3\)"):
        metric.update(scores, labels[1:])
    assert metric.compute() == long_tail_map(scores, labels, COUNTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_counts": [1, -1, 1]}, r"class_counts\[1\] is -1"),
        ({"class_counts": None}, "class_counts"),
        ({"head_min": 5}, "tail_max"),
        ({"label_names": ["a"]}, "label_names has 1 names"),
        ({"threshold": [0.5]}, "threshold has shape"),
        ({"top_k": 4}, "top_k is 4"),
        ({"average_precision_method": "12-point"}, "Did you mean '11-point'"),
        ({"num_bins": 0}, "num_bins"),
    ],
)
def test_bad_switches_are_refused_before_the_first_batch(options, message):
    with pytest.raises(ValueError, match=message):
        LongTailMeanAveragePrecision(**({"class_counts": COUNTS} | options))


def test_scores_are_kept_as_fp32_on_the_cpu():
    metric = LongTailMeanAveragePrecision([5])
    # One fp64 step apart: a tie in fp32.
    metric.update([[0.5], [float(np.nextafter(0.5, 1))]], [[0], [1]])
    assert metric.compute()["map_tail"] == 0.5
