# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from modeling_cssfe.analysis.correlation import average_ranks, spearman


# Few different values, so that most maps have ties.
MAPS = arrays.arrays(np.float32, (2, 24), elements=st.integers(-3, 3).map(float))


@settings(max_examples=60, deadline=None)
@given(MAPS)
def test_correlation_with_ties_is_that_of_scipy(maps):
    found = spearman(torch.from_numpy(maps[0]), torch.from_numpy(maps[1])).item()
    if np.ptp(maps[0]) == 0 or np.ptp(maps[1]) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(maps[0], maps[1]).statistic, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(MAPS)
def test_ranks_are_those_of_scipy(maps):
    assert np.array_equal(average_ranks(torch.from_numpy(maps)).numpy(), stats.rankdata(maps, axis=1))


def test_a_batch_gives_what_single_maps_give():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 5, 3, 49, generator=generator)
    batch = spearman(first, second)
    assert batch.shape == (5, 3)
    for row in range(5):
        for column in range(3):
            expected = stats.spearmanr(first[row, column], second[row, column]).statistic
            assert batch[row, column].item() == pytest.approx(expected, abs=1e-12)


def test_order_alone_counts_and_noise_has_no_correlation():
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(100, 196, generator=generator)
    assert torch.allclose(spearman(values, values.exp()), torch.ones(100, dtype=torch.float64))
    assert torch.allclose(spearman(values, -values), -torch.ones(100, dtype=torch.float64))
    noise = spearman(values, torch.randn(100, 196, generator=generator))
    # The standard deviation of the rank correlation of noise is 1 / sqrt(L - 1).
    assert abs(noise.mean().item()) < 4 / np.sqrt(195 * 100)
    assert noise.std().item() == pytest.approx(1 / np.sqrt(195), rel=0.3)


def test_values_that_are_not_finite_have_no_correlation():
    values = torch.arange(4.0)
    for bad in (torch.nan, torch.inf):
        assert spearman(values, torch.tensor([0.0, 1.0, bad, 3.0])).isnan()
    with pytest.raises(ValueError, match="resize one map"):
        spearman(values, torch.arange(5.0))
