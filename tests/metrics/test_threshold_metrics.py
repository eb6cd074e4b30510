# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_cases import SPREAD_SCORES, for_torchmetrics, in_fp64, known, scored_labels
from sklearn.metrics import f1_score, precision_score, recall_score
from torchmetrics.functional.classification import multilabel_f1_score

from modeling_cssfe.metrics import decide, f1_scores, precision_recall_scores


def f1(true_positives, false_positives, false_negatives):
    whole = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / whole if whole else 0.0


def by_hand(scores, labels, threshold=0.5, top_k=None):
    """All ten figures by loops over single labels."""
    num_images, num_classes = scores.shape
    thresholds = [threshold] * num_classes if np.ndim(threshold) == 0 else list(threshold)
    per_class = [[0, 0, 0] for _ in range(num_classes)]
    images = []
    for i in range(num_images):
        ranked = sorted(range(num_classes), key=lambda c: (-scores[i, c], c))
        own, any_known = [0, 0, 0], False
        for c in range(num_classes):
            if labels[i, c] not in (0, 1):
                continue
            any_known = True
            yes = c in ranked[:top_k] if top_k else scores[i, c] >= thresholds[c]
            for counts in (per_class[c], own):
                counts[0] += yes and labels[i, c] == 1
                counts[1] += yes and labels[i, c] == 0
                counts[2] += (not yes) and labels[i, c] == 1
        if any_known:
            images.append(f1(*own))
    present = [counts for counts in per_class if counts[0] + counts[2]]
    figures = {"f1_samples": np.mean(images) if images else None}
    if not present:
        names = ("f1_micro", "f1_macro", "f1_weighted", "op", "or", "of1", "cp", "cr", "cf1")
        return figures | dict.fromkeys(names)
    pooled = np.sum(per_class, axis=0)
    ratio = lambda part, whole: part / whole if whole else 0.0  # noqa: E731
    op, orr = ratio(pooled[0], pooled[0] + pooled[1]), ratio(pooled[0], pooled[0] + pooled[2])
    cp = np.mean([ratio(t, t + p) for t, p, n in present])
    cr = np.mean([ratio(t, t + n) for t, p, n in present])
    return figures | {
        "f1_micro": f1(*pooled),
        "f1_macro": np.mean([f1(*counts) for counts in present]),
        "f1_weighted": np.average([f1(*c) for c in present], weights=[c[0] + c[2] for c in present]),
        "op": op,
        "or": orr,
        "of1": ratio(2 * op * orr, op + orr),
        "cp": cp,
        "cr": cr,
        "cf1": ratio(2 * cp * cr, cp + cr),
    }


@settings(max_examples=150, deadline=None)
@given(scored_labels(), st.data())
def test_every_figure_is_that_of_a_loop_over_single_labels(case, data):
    scores, labels = case
    decision = data.draw(
        st.one_of(
            st.fixed_dictionaries({"threshold": st.integers(0, 8).map(lambda k: k / 8)}),
            st.fixed_dictionaries(
                {"threshold": st.lists(st.floats(0, 1), min_size=scores.shape[1], max_size=scores.shape[1])}
            ),
            st.fixed_dictionaries({"top_k": st.integers(1, scores.shape[1])}),
        )
    )
    result = f1_scores(scores, labels, **decision) | precision_recall_scores(scores, labels, **decision)
    expected = by_hand(scores, labels, **decision)
    assert result.keys() == expected.keys()
    for name, value in expected.items():
        assert result[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name


@settings(max_examples=80, deadline=None)
@given(scored_labels(unknown=False, min_classes=2))
def test_f1_precision_and_recall_are_those_of_scikit_learn(case):
    scores, labels = case
    present = labels.any(axis=0)
    if not present.any():
        return
    yes = scores >= 0.5
    result = f1_scores(scores, labels) | precision_recall_scores(scores, labels)
    options = {"zero_division": 0}
    close = lambda value: pytest.approx(value, abs=1e-9)  # noqa: E731
    assert result["f1_micro"] == close(f1_score(labels, yes, average="micro", **options))
    assert result["f1_weighted"] == close(f1_score(labels, yes, average="weighted", **options))
    assert result["f1_samples"] == close(f1_score(labels, yes, average="samples", **options))
    assert result["op"] == close(precision_score(labels, yes, average="micro", **options))
    assert result["or"] == close(recall_score(labels, yes, average="micro", **options))
    options["average"] = None
    assert result["f1_macro"] == close(f1_score(labels, yes, **options)[present].mean())
    assert result["cp"] == close(precision_score(labels, yes, **options)[present].mean())
    assert result["cr"] == close(recall_score(labels, yes, **options)[present].mean())


@settings(max_examples=40, deadline=None)
@given(scored_labels(scores=SPREAD_SCORES, min_classes=2))
def test_micro_f1_is_that_of_torchmetrics_with_unknown_labels_ignored(case):
    scores, labels = for_torchmetrics(*case)
    if not (labels == 1).any():
        return
    with in_fp64():
        expected = multilabel_f1_score(scores, labels, num_labels=scores.shape[1], average="micro", ignore_index=-1)
    assert f1_scores(scores, labels)["f1_micro"] == pytest.approx(float(expected), abs=1e-9)


def test_cf1_comes_from_the_means_and_macro_f1_is_the_mean():
    # Class 0: precision 1, recall 1/2, F1 2/3. Class 1: precision 1/2, recall 1, F1 2/3.
    labels = [[1, 1], [1, 0], [0, 0]]
    scores = [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    assert f1_scores(scores, labels)["f1_macro"] == pytest.approx(2 / 3)
    assert precision_recall_scores(scores, labels)["cf1"] == pytest.approx(3 / 4)


def test_a_false_alarm_on_an_absent_class_counts_where_labels_are_pooled_and_not_in_means():
    scores, labels = [[0.9, 0.9]], [[1, 0]]
    figures = f1_scores(scores, labels) | precision_recall_scores(scores, labels)
    assert figures["op"] == 0.5
    assert figures["cp"] == 1.0
    assert figures["f1_macro"] == 1.0
    assert figures["f1_micro"] == pytest.approx(2 / 3)


def test_without_any_positive_nothing_but_the_mean_over_images_is_defined():
    figures = f1_scores([[0.9], [0.1]], [[0], [0]]) | precision_recall_scores([[0.9], [0.1]], [[0], [0]])
    assert figures.pop("f1_samples") == 0
    assert set(figures.values()) == {None}


def test_a_score_at_the_threshold_is_a_yes_in_the_precision_of_the_scores():
    # In fp64 the fp32 number nearest to 0.7 is smaller than 0.7.
    assert decide(np.array([[0.7]], dtype=np.float32), threshold=0.7).all()
    assert not decide(np.array([[np.float32(0.7)]], dtype=np.float64), threshold=0.7).any()


def test_top_k_takes_the_first_classes_among_equal_scores():
    scores = np.array([[0.5, 0.5, 0.5, 0.9]])
    assert decide(scores, top_k=2).tolist() == [[True, False, False, True]]
    # So many ties that only a stable sort keeps them in order.
    many = np.random.default_rng(0).integers(0, 3, (1, 500)) / 2
    expected = sorted(range(500), key=lambda c: (-many[0, c], c))[:50]
    assert np.flatnonzero(decide(many, top_k=50)).tolist() == sorted(expected)


def test_an_unknown_label_takes_a_place_among_the_top_k_and_is_not_counted():
    figures = precision_recall_scores([[0.9, 0.8, 0.1]], [[-1, 1, 0]], top_k=1)
    assert figures["or"] == 0


def test_the_figures_do_not_depend_on_the_number_of_threads():
    generator = np.random.default_rng(0)
    scores, labels = generator.random((4000, 90)), generator.choice([0, 1, -1], (4000, 90))
    one = f1_scores(scores, labels)
    assert one == f1_scores(scores, labels, num_workers=2)
    expected = by_hand(scores, labels)
    assert {name: pytest.approx(expected[name], abs=1e-12) for name in one} == one
    assert known(labels).all(axis=1).mean() < 1


@pytest.mark.parametrize(
    ("decision", "kind", "message"),
    [
        ({"threshold": [0.5, 0.5, 0.5]}, ValueError, r"threshold has shape \(3,\) but there are 2 classes"),
        ({"threshold": float("nan")}, ValueError, "threshold must be finite, got nan"),
        ({"threshold": "half"}, TypeError, "threshold must be a number or one number a class, got 'half'"),
        ({"top_k": 3}, ValueError, "top_k is 3 but there are only 2 classes"),
        ({"top_k": 0}, ValueError, "top_k must be at least 1, got 0"),
        ({"top_k": 1.5}, TypeError, "top_k must be a whole number, got 1.5"),
        ({"top_k": True}, TypeError, "top_k must be a whole number, got True"),
        ({"top_k": 1, "threshold": 0.3}, ValueError, "two ways to decide; give only one"),
    ],
)
def test_an_impossible_decision_is_refused(decision, kind, message):
    with pytest.raises(kind, match=message) as error:
        f1_scores(torch.rand(4, 2), torch.ones(4, 2), **decision)
    assert "\n" not in str(error.value)
