# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import rankdata
from score_cases import NAMES, make_table
from sklearn.metrics import average_precision_score

from modeling_cssfe.evaluation.bootstrap import resample_rows
from modeling_cssfe.evaluation.comparison import compare
from modeling_cssfe.metrics.long_tail import MAP_FIGURES


def mean_ap(scores, labels, classes=range(6)):
    """mAP by scikit-learn over the classes that have positives."""
    values = []
    for column in classes:
        known = labels[:, column] >= 0
        if (labels[known, column] == 1).any():
            values.append(average_precision_score(labels[known, column] == 1, scores[known, column]))
    return np.mean(values)


def test_a_model_against_itself_differs_by_nothing_and_has_p_one():
    table = make_table()
    result = compare(table, replace(table, name="copy"), resamples=50)
    for entry in result.differences.values():
        assert (entry.difference, entry.low, entry.high) == (0, 0, 0)
        assert (entry.p_permutation, entry.p_bootstrap) == (1, 1)
    assert "model and copy are equal" in result.sentence()
    assert "may well be chance" in result.sentence()


def test_a_planted_difference_is_found_and_has_the_right_sign():
    weak, strong = make_table(300, seed=1, name="weak", skill=0.8), make_table(300, seed=2, name="strong", skill=2.5)
    result = compare(strong, weak, resamples=199)
    entry = result.differences["map_total"]
    assert entry.difference == pytest.approx(mean_ap(strong.scores, strong.labels) - mean_ap(weak.scores, weak.labels))
    assert entry.low > 0
    assert entry.p_permutation == 1 / 200  # no exchange comes near
    assert entry.p_bootstrap < 0.05
    assert "strong is" in result.sentence()
    assert f"{100 * entry.difference:.2f} points above weak" in result.sentence()
    assert "the difference is real" in result.sentence()
    back = compare(weak, strong, resamples=199)
    assert back.differences["map_total"].difference == -entry.difference
    assert "below strong" in back.sentence()
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.parametrize(("resamples", "verdict"), [(18, "18 permutations are too few"), (20, "difference is real")])
def test_too_few_permutations_are_no_proof_of_chance(resamples, verdict):
    weak, strong = make_table(300, seed=1, skill=0.8), make_table(300, seed=2, skill=2.5)
    assert verdict in compare(strong, weak, resamples=resamples).sentence()


def test_the_interval_is_that_of_a_slow_loop_over_paired_resamples():
    a, b = make_table(60, seed=1), make_table(60, seed=2, skill=1.5)
    result = compare(a, b, resamples=60, seed=9)
    draws = list(resample_rows(60, 60, 9))
    for name, classes in zip(MAP_FIGURES, (range(6), (0, 1), (2, 3), (4, 5)), strict=True):
        slow = [mean_ap(a.scores[r], a.labels[r], classes) - mean_ap(b.scores[r], b.labels[r], classes) for r in draws]
        entry = result.differences[name]
        assert (entry.low, entry.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-12)
        sides = [sum(value <= 0 for value in slow), sum(value >= 0 for value in slow)]
        assert entry.p_bootstrap == pytest.approx(min(1, 2 * (min(sides) + 1) / 61))


def test_the_permutation_p_value_of_few_images_is_that_of_all_exchanges():
    # 7 images have 128 exchanges, all of which can be walked.
    labels = np.zeros((7, 6), dtype=np.float32)
    labels[:4] = 1
    scores = [np.random.default_rng(seed).random((7, 6)) + 0.4 * skill * labels for seed, skill in ((1, 1), (2, 0))]
    a, b = (make_table(7, scores=one / 2, labels=labels) for one in scores)
    ranks = [np.apply_along_axis(rankdata, 0, one) for one in scores]
    real = mean_ap(scores[0], labels) - mean_ap(scores[1], labels)
    differences = []
    for number in range(128):
        taken = ((number >> np.arange(7)) & 1).astype(bool)[:, None]
        first, second = np.where(taken, ranks[0], ranks[1]), np.where(taken, ranks[1], ranks[0])
        differences.append(mean_ap(first, labels) - mean_ap(second, labels))
    exact = np.mean([abs(value) >= abs(real) - 1e-9 for value in differences])
    assert 0.01 < exact < 0.5
    drawn = compare(a, b, resamples=4000, metrics=["map_total"]).differences["map_total"].p_permutation
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4000))


def test_scores_on_another_scale_change_no_p_value():
    a, b = make_table(100, seed=1, ties=False), make_table(100, seed=2, skill=1.4, ties=False)
    expected = compare(a, b, resamples=99).differences
    squeezed = compare(a, replace(b, scores=b.scores**7), resamples=99).differences
    for name in MAP_FIGURES:
        assert squeezed[name].p_permutation == expected[name].p_permutation
        assert squeezed[name].difference == pytest.approx(expected[name].difference, abs=1e-12)


def test_models_that_are_equally_good_are_called_different_about_one_time_in_twenty():
    trials = 150
    calls = {"p_permutation": 0, "p_bootstrap": 0}
    for trial in range(trials):
        a = make_table(100, seed=1000 + trial, unknown=0, ties=False)
        b = make_table(100, seed=5000 + trial, unknown=0, ties=False)
        entry = compare(a, b, resamples=99, metrics=["map_total"], seed=trial).differences["map_total"]
        for test in calls:
            calls[test] += getattr(entry, test) <= 0.05
    # 150 trials of 5 %: 7.5, and 1 to 16 with probability .998.
    assert 1 <= calls["p_permutation"] <= 16
    # The percentile bootstrap is known to be a little off for so few positives.
    assert calls["p_bootstrap"] <= 20


def test_images_and_classes_in_another_order_are_aligned():
    a, b = make_table(60, seed=1), make_table(60, seed=2)
    rows, columns = np.random.default_rng(0).permutation(60), [3, 1, 5, 0, 2, 4]
    shuffled = replace(
        b.select(rows),
        label_names=tuple(NAMES[column] for column in columns),
        scores=b.scores[np.ix_(rows, columns)],
        labels=b.labels[np.ix_(rows, columns)],
        class_counts=tuple(b.class_counts[column] for column in columns),
    )
    assert compare(a, shuffled, resamples=20) == compare(a, b, resamples=20)


def test_a_figure_that_is_not_defined_is_said_to_be_so():
    labels = np.zeros((40, 6), dtype=np.float32)
    labels[:10, :4] = 1
    a, b = make_table(40, seed=1, labels=labels), make_table(40, seed=2, labels=labels)
    result = compare(a, b, resamples=10)
    assert result.differences["map_tail"].difference is None
    assert result.differences["map_tail"].p_permutation is None
    assert "mAP tail: not defined" in result.sentence("map_tail")
    assert result.differences["map_total"].difference is not None


def changed_labels(table):
    labels = table.labels.copy()
    labels[3, 2] = 1 - abs(labels[3, 2])
    return replace(table, labels=labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.select(range(59)), "different images: only the first has 'image 59', only the second has none"),
        (lambda t: replace(t, label_names=(*NAMES[:5], "ox")), "different classes: only the first has 'cow'.*'ox'"),
        (changed_labels, "the label of image 'image 3' for 'dog' is"),
        (lambda t: replace(t, class_counts=(300, 120, 50, 30, 30, 4)), "'bus' is tail in model but medium in model"),
    ],
)
def test_tables_that_do_not_fit_are_refused_with_the_difference(change, message):
    table = make_table(60)
    with pytest.raises(ValueError, match=message):
        compare(table, change(table), resamples=5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": ["map_totl"]}, "Did you mean 'map_total'"),
        ({"metrics": ["f1_macro"]}, "unknown figure to compare 'f1_macro'"),
        ({"resamples": 1}, "needs at least 2"),
        ({"confidence": 0}, "confidence is 0"),
    ],
)
def test_a_bad_option_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        compare(make_table(), make_table(), **options)
