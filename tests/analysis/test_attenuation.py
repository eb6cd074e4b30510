# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
import torch

from modeling_cssfe.analysis.attenuation import ATTENTIONS, top_attention


@pytest.mark.parametrize("kind", ATTENTIONS)
@pytest.mark.parametrize("length", [49, 196])
def test_attention_is_that_of_a_slow_formula(kind, length):
    rng = np.random.default_rng(3)
    reference, maps = rng.normal(size=(2, 7, length)).astype(np.float32)
    found = top_attention(torch.from_numpy(reference), torch.from_numpy(maps), kind)
    for row in range(7):
        top = sorted(range(length), key=lambda place: -float(reference[row, place]))[: (length + 1) // 2]
        for values, result in zip((reference[row], maps[row]), found, strict=True):
            floor = 0.0 if kind == "positive" else float(values.min())
            expected = sum(max(float(values[place]) - floor, 0.0) for place in top) / len(top)
            assert result[row].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_maps_halved_give_half_exactly(kind):
    reference = torch.randn(9, 64, generator=torch.Generator().manual_seed(0))
    of_reference, of_maps = top_attention(reference, reference / 2, kind)
    assert torch.equal(of_maps, of_reference / 2)


def test_contrast_does_not_see_a_shift_and_positive_values_do():
    reference = torch.rand(4, 30, generator=torch.Generator().manual_seed(0)).double()
    same = top_attention(reference, reference - 0.25, "contrast")
    assert torch.allclose(same[0], same[1])
    shifted = top_attention(reference, reference - 0.25, "positive")
    assert (shifted[1] < shifted[0]).all()


def test_the_share_decides_how_many_places_count():
    reference = torch.arange(10.0)[None]
    maps = torch.ones(1, 10)
    maps[0, 9] = 11
    shares = {share: top_attention(reference, maps, "positive", share)[1].item() for share in (0.1, 0.15, 1.0)}
    assert shares == {0.1: 11, 0.15: 6, 1.0: 2}


def test_wrong_options_are_one_line_errors():
    maps = torch.ones(1, 4)
    with pytest.raises(ValueError, match="unknown attention 'max'"):
        top_attention(maps, maps, "max")
    with pytest.raises(ValueError, match="share is 0"):
        top_attention(maps, maps, share=0)
    with pytest.raises(ValueError, match="resize one"):
        top_attention(maps, torch.ones(1, 5))
