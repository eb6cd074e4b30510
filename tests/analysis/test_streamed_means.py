# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest

from modeling_cssfe.analysis.streamed_means import StreamedMeans


def values(images=60):
    rng = np.random.default_rng(0)
    found = rng.normal(size=(images, 3))
    found[rng.random((images, 3)) < 0.4] = np.nan
    return found


def streamed(found, batch, resamples=50):
    means = StreamedMeans(["a", "b", "c"], ["head", "tail", "tail"], resamples=resamples, seed=7)
    for start in range(0, len(found), batch):
        means.add({"x": found[start : start + batch], "double": 2 * found[start : start + batch]})
    return means


def test_means_of_classes_and_groups_are_those_of_all_values():
    found = values()
    summary = streamed(found, 7).summarize("x")
    expected = np.nanmean(found, axis=0)
    assert [summary.per_class[name].value for name in "abc"] == pytest.approx(expected.tolist(), rel=1e-12)
    assert summary.groups["tail"].value == pytest.approx((expected[1] + expected[2]) / 2, rel=1e-12)
    assert summary.groups["all"].value == pytest.approx(expected.mean(), rel=1e-12)
    assert summary.groups["medium"].value is None
    assert summary.images == dict(zip("abc", (~np.isnan(found)).sum(axis=0).tolist(), strict=True))


def test_single_images_and_batches_give_the_same_resamples():
    found = values()
    whole, single = streamed(found, 60).means("x"), streamed(found, 1).means("x")
    assert np.allclose(whole, single, rtol=1e-12, equal_nan=True)


def test_figures_of_one_batch_share_their_weights():
    means = streamed(values(), 9)
    assert np.allclose(means.means("double"), 2 * means.means("x"), rtol=1e-12)


def test_the_interval_is_as_wide_as_theory_says():
    # The bootstrap's standard error of a mean is sigma / sqrt(n).
    found = np.random.default_rng(1).normal(size=(400, 1))
    means = StreamedMeans(["a"], ["head"], resamples=2000, seed=0)
    means.add({"x": found})
    samples = means.means("x")[1:, 0]
    assert samples.std() == pytest.approx(found.std() / 20, rel=0.06)
    interval = means.summarize("x").per_class["a"]
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * found.std() / 20, rel=0.1)


def test_memory_does_not_grow_with_the_stream():
    import tracemalloc

    means = StreamedMeans([str(i) for i in range(20)], ["head"] * 20, resamples=100)
    block = {"x": np.ones((16, 20))}
    means.add(block)
    tracemalloc.start()
    try:
        for _ in range(200):
            means.add(block)
        assert tracemalloc.get_traced_memory()[0] < 200_000
    finally:
        tracemalloc.stop()


def test_a_loss_is_a_ratio_of_means_for_classes_and_groups():
    rng = np.random.default_rng(2)
    above = rng.random((40, 3)) + 0.5
    below = above * np.array([0.5, 0.25, 2.0]) + rng.random((40, 3)) * 0.1
    means = StreamedMeans(["a", "b", "c"], ["head", "tail", "tail"], resamples=10)
    means.add({"below": below, "above": above})
    found = means.summarize_loss("below", "above", np.array([True, True, True]))
    assert found.per_class["a"].value == pytest.approx(1 - below[:, 0].sum() / above[:, 0].sum())
    assert found.groups["tail"].value == pytest.approx(1 - below[:, 1:].mean() / above[:, 1:].mean())
    without = means.summarize_loss("below", "above", np.array([True, True, False]))
    assert without.per_class["c"].value is None
    assert without.groups["tail"].value == pytest.approx(without.per_class["b"].value)


def test_wrong_batches_and_options_are_one_line_errors():
    means = StreamedMeans(["a"], ["head"], resamples=2)
    with pytest.raises(ValueError, match=r"give each \(images, 1\)"):
        means.add({"x": np.ones((2, 3))})
    with pytest.raises(ValueError, match="one group a class"):
        StreamedMeans(["a"], [])
    with pytest.raises(ValueError, match="at least 2"):
        StreamedMeans(["a"], ["head"], resamples=1)
