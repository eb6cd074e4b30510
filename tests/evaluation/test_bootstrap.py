# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import tracemalloc
import warnings
from dataclasses import replace

import numpy as np
import pytest
from score_cases import NAMES, make_table

from modeling_cssfe.evaluation import bootstrap as bootstrap_module
from modeling_cssfe.evaluation.bootstrap import bootstrap, resample_rows
from modeling_cssfe.evaluation.weighted import CLASS_FIGURES, FIGURES
from modeling_cssfe.metrics import long_tail_map


ALL_FIGURES = [name for names in FIGURES.values() for name in names]


def figure_of(result, name):
    """A figure of `long_tail_map`'s result by the name that the bootstrap gives it."""
    if name in result:
        return result[name]
    prefix, group = name.rsplit("_", 1)
    return result["groups"][group][prefix]


def slow_loop(table, resamples, seed, **options):
    """`long_tail_map` on every resample, copied out."""
    for rows in resample_rows(len(table.image_ids), resamples, seed):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # absent classes
            yield long_tail_map(
                table.scores[rows], table.labels[rows], table.class_counts, label_names=table.label_names, **options
            )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"average_precision_method": "11-point", "num_bins": 7},
        {"top_k": 2},
        {"threshold": (0.3, 0.4, 0.5, 0.2, 0.1, 0.15)},
    ],
    ids=["default", "11-point", "top 2", "thresholds"],
)
def test_every_figure_of_every_resample_is_that_of_long_tail_map_on_the_resampled_images(options):
    table = make_table()
    settings = {name: value for name, value in options.items() if name != "threshold"}
    result = bootstrap(replace(table, thresholds=options.get("threshold")), resamples=40, seed=3, **settings)
    expected = list(slow_loop(table, 40, 3, **options))
    assert set(result.samples) == set(ALL_FIGURES)
    for name in ALL_FIGURES:
        slow = np.array([figure_of(one, name) for one in expected], dtype=float)  # None becomes NaN
        np.testing.assert_allclose(result.samples[name], slow, rtol=0, atol=1e-12, err_msg=name)
        assert result.intervals[name].low == pytest.approx(np.quantile(slow[~np.isnan(slow)], 0.025), abs=1e-12)
        assert result.intervals[name].high == pytest.approx(np.quantile(slow[~np.isnan(slow)], 0.975), abs=1e-12)
        assert result.intervals[name].mean == pytest.approx(np.nanmean(slow), abs=1e-12)
    for name in (name for names in CLASS_FIGURES.values() for name in names):
        for index, label in enumerate(NAMES):
            slow = np.array([one["class_table"][index][name] for one in expected], dtype=float)
            slow = slow[~np.isnan(slow)]
            entry = result.per_class[name][label]
            assert (entry.low, entry.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-12)
            assert entry.resamples == len(slow)


def test_the_values_beside_the_intervals_are_those_of_long_tail_map():
    table = make_table(images=60)
    expected = table.figures()
    result = bootstrap(table, resamples=2)
    for name in ALL_FIGURES:
        assert result.intervals[name].value == pytest.approx(figure_of(expected, name), abs=1e-12), name
    values = {name: entry.value for name, entry in result.per_class["average_precision"].items()}
    assert values == pytest.approx(expected["per_class"], abs=1e-12)


def test_a_class_that_loses_its_positives_is_left_out_and_counted():
    table = make_table(unknown=0)
    labels = table.labels.copy()
    labels[:, 5] = 0
    labels[7, 5] = 1  # one positive: a resample misses it with probability (1 - 1 / 80) ** 80 = .366
    table = replace(table, labels=labels)
    result = bootstrap(table, resamples=300, seed=1)
    missed = sum(7 not in rows for rows in resample_rows(80, 300, 1))
    assert 80 < missed < 140
    assert result.lost_classes["cow"] == missed
    assert result.per_class["average_precision"]["cow"].resamples == 300 - missed
    assert result.intervals["map_tail"].resamples == 300  # the other tail class is still there
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_group_without_any_positive_has_no_value_and_no_interval():
    table = make_table(unknown=0)
    labels = table.labels.copy()
    labels[:, 4:] = 0
    result = bootstrap(replace(table, labels=labels), resamples=5)
    entry = result.intervals["map_tail"]
    assert (entry.value, entry.low, entry.high, entry.resamples) == (None, None, None, 0)
    assert result.intervals["map_total"].low is not None
    assert "cow" not in result.lost_classes  # it had none to lose
    assert result.limits()["map_tail"] == (None, None)
    json.dumps(result.to_dict(), allow_nan=False)


def test_the_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    # `or` of one class, with every positive known: a recall, whose standard error is sqrt(p (1 - p) / positives).
    images = 2000
    labels = np.ones((images, 6), dtype=np.float32)
    scores = np.tile((np.arange(images) % 10 < 7)[:, None] * 1.0, (1, 6))
    entry = bootstrap(make_table(images, scores=scores, labels=labels), resamples=2000, metrics=["or"]).intervals["or"]
    half = 1.96 * np.sqrt(0.7 * 0.3 / images)
    assert entry.value == pytest.approx(0.7)
    assert (entry.low, entry.high) == pytest.approx((0.7 - half, 0.7 + half), abs=0.1 * half)


def test_the_seed_decides_and_the_size_of_blocks_does_not(monkeypatch):
    table = make_table()
    first = bootstrap(table, resamples=30, seed=4)
    again = bootstrap(table, resamples=30, seed=4)
    monkeypatch.setattr(bootstrap_module, "_MAX_WEIGHTINGS", 7)
    blocks = bootstrap(table, resamples=30, seed=4)
    other = bootstrap(table, resamples=30, seed=5)
    for name in ALL_FIGURES:
        np.testing.assert_array_equal(first.samples[name], again.samples[name])
        np.testing.assert_allclose(first.samples[name], blocks.samples[name], rtol=0, atol=1e-14)
    assert not np.array_equal(first.samples["map_total"], other.samples["map_total"])


def test_only_the_figures_asked_for_are_computed():
    result = bootstrap(make_table(), resamples=3, metrics=["map_tail", "of1"])
    assert list(result.intervals) == ["map_tail", "of1"]
    assert set(result.per_class) == {"average_precision", "precision", "recall", "f1"}


def test_memory_does_not_grow_with_the_number_of_resamples():
    table = make_table(images=3000, ties=False)

    def peak(resamples):
        tracemalloc.start()
        try:
            bootstrap(table, resamples=resamples, metrics=["map_total"])
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # The weights of 1,000 resamples at once would be 24 MB, and the curve of a class several times that.
    assert peak(1000) < 1.1 * peak(300)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"resamples": 1}, ValueError, "resamples is 1; an interval needs at least 2"),
        ({"resamples": 0}, ValueError, "resamples must be at least 1"),
        ({"resamples": 10.0}, TypeError, "resamples must be a whole number"),
        ({"confidence": 95}, ValueError, "confidence is 95; give a share between 0 and 1"),
        ({"metrics": ["map_tails"]}, ValueError, r"unknown figure 'map_tails'.*Did you mean 'map_tail'\?"),
        ({"average_precision_method": "aera"}, ValueError, "Did you mean 'area'"),
        ({"top_k": 7}, ValueError, "top_k is 7 but there are only 6 classes"),
    ],
)
def test_a_bad_option_is_refused(options, kind, message):
    with pytest.raises(kind, match=message):
        bootstrap(make_table(), **options)
