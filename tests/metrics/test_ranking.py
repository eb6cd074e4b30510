# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
from hypothesis import assume, given, settings
from scored_cases import columns, for_torchmetrics, in_fp64, rows, scored_labels
from sklearn import metrics as sklearn_metrics
from torchmetrics.functional.classification import (
    multilabel_auroc,
    multilabel_coverage_error,
    multilabel_ranking_loss,
)

from modeling_cssfe.metrics import auroc, coverage_error, ranking_loss


@settings(max_examples=150, deadline=None)
@given(scored_labels())
def test_auroc_is_that_of_scikit_learn_where_a_class_has_both_kinds(case):
    for value, (scores, labels) in zip(auroc(*case), columns(*case), strict=True):
        if 0 < labels.sum() < len(labels):
            assert value == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), abs=1e-9)
        else:
            assert np.isnan(value)


@settings(max_examples=40, deadline=None)
@given(scored_labels(min_classes=2))
def test_auroc_is_that_of_torchmetrics_with_unknown_labels_ignored(case):
    scores, labels = for_torchmetrics(*case)
    both = (labels == 1).any(dim=0) & (labels == 0).any(dim=0)
    assume(both.sum() >= 2)  # torchmetrics calls the AUROC of the others 0, and takes no single class
    scores, labels = scores[:, both], labels[:, both]
    with in_fp64():
        expected = multilabel_auroc(scores, labels, num_labels=scores.shape[1], average=None, ignore_index=-1)
    np.testing.assert_allclose(auroc(scores, labels), expected.numpy(), rtol=0, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(scored_labels(unknown=False, min_classes=2))
def test_coverage_and_ranking_loss_are_those_of_scikit_learn(case):
    scores, labels = case
    assert coverage_error(scores, labels) == pytest.approx(sklearn_metrics.coverage_error(labels, scores), abs=1e-9)
    expected = sklearn_metrics.label_ranking_loss(labels, scores)
    assert ranking_loss(scores, labels) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(scored_labels())
def test_coverage_and_ranking_loss_are_those_of_a_loop_over_pairs_with_unknown_labels(case):
    coverages, losses = [], []
    for scores, labels in rows(*case):
        if not len(labels):
            continue
        positives, negatives = scores[labels == 1], scores[labels == 0]
        coverages.append(sum(s >= min(positives) for s in scores) if len(positives) else 0)
        pairs = [negative >= positive for positive in positives for negative in negatives]
        losses.append(sum(pairs) / len(pairs) if pairs else 0)
    if coverages:
        assert coverage_error(*case) == pytest.approx(np.mean(coverages), abs=1e-9)
        assert ranking_loss(*case) == pytest.approx(np.mean(losses), abs=1e-9)
    else:
        assert coverage_error(*case) is None
        assert ranking_loss(*case) is None


def test_rankings_of_more_than_one_block_of_images_are_those_of_torchmetrics():
    generator = np.random.default_rng(0)
    scores = generator.permuted(np.tile(np.linspace(0, 1, 90), (4000, 1)), axis=1)  # no ties within an image
    labels = generator.random((4000, 90)) < 0.05
    scores_t, labels_t = for_torchmetrics(scores, labels)
    coverage = float(multilabel_coverage_error(scores_t, labels_t, num_labels=90))
    loss = float(multilabel_ranking_loss(scores_t, labels_t, num_labels=90))
    for num_workers in (1, 2):
        # torchmetrics sums 4,000 images in fp32 whatever it is given; scikit-learn is held to 1e-9 above.
        assert coverage_error(scores, labels, num_workers=num_workers) == pytest.approx(coverage, rel=1e-6)
        assert ranking_loss(scores, labels, num_workers=num_workers) == pytest.approx(loss, rel=1e-6)


def test_one_class_alone_can_be_ranked():
    assert coverage_error([[0.3], [0.4]], [[1], [0]]) == 0.5
    assert ranking_loss([[0.3], [0.4]], [[1], [0]]) == 0
