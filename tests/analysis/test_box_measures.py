# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest

from modeling_cssfe.analysis.box_measures import best_overlaps, box_masks, energy_inside, overlaps, pointing_hits


def box(*corners):
    return np.array([corners], dtype=float)


def planted(rows, columns, side=8, low=0.0):
    found = np.full((1, side, side), low)
    found[0, rows, columns] = 1.0
    return found


def test_pointing_hits_where_the_highest_place_lies_in_a_box():
    found = planted(slice(2, 3), slice(5, 6))  # its centre is at y 2.5 / 8, x 5.5 / 8
    assert pointing_hits(found, [box(0.6, 0.2, 0.9, 0.4)]).tolist() == [1]
    assert pointing_hits(found, [box(0.0, 0.0, 0.6, 1.0)]).tolist() == [0]
    assert pointing_hits(found, [np.vstack([box(0, 0, 0.1, 0.1), box(0.6, 0.2, 0.9, 0.4)])]).tolist() == [1]
    assert pointing_hits(found, [box(0.0, 0.0, 0.6, 1.0)], tolerance=0.1).tolist() == [1]


def test_energy_is_the_share_of_positive_values_inside():
    found = planted(slice(0, 4), slice(0, 4), low=-1.0)  # the upper left quarter
    found[0, 7, 7] = 4.0
    masks = box_masks([box(0, 0, 0.5, 0.25)], 8, 8)
    assert masks.sum() == 8
    # 8 of the 16 ones are inside; 16 + 4 is everything positive.
    assert energy_inside(found, masks).tolist() == [pytest.approx(8 / 20)]


def test_overlap_is_that_of_the_tight_box_of_a_connected_part():
    found = planted(slice(0, 4), slice(0, 4))
    # The drawn box is [0, .5] x [0, .5]; of the other box half is covered: .125 / (.25 + .25 - .125).
    assert best_overlaps(found, [box(0.25, 0, 0.75, 0.5)], [0.5])[0, 0] == pytest.approx(0.125 / 0.375)
    # A second part elsewhere does not spoil the first.
    found[0, 6:, 6:] = 1.0
    assert best_overlaps(found, [box(0, 0, 0.5, 0.5)], [0.5])[0, 0] == pytest.approx(1.0)


def test_a_higher_cut_draws_a_smaller_box():
    found = planted(slice(0, 8), slice(0, 8), low=0.0)
    found[0] = 0.0
    found[0, :6, :6] = 0.5
    found[0, :2, :2] = 1.0
    got = best_overlaps(found, [box(0, 0, 0.25, 0.25)], [0.4, 0.9])[0]
    assert got.tolist() == pytest.approx([(2 / 6) ** 2, 1.0])


def test_overlaps_agree_with_torchvision():
    import torch
    from torchvision.ops import box_iou

    corners = np.random.default_rng(0).random((2, 6, 2, 2))
    first, second = np.concatenate([corners.min(2), corners.max(2) + 0.01], axis=-1)
    expected = box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    assert np.allclose(overlaps(first, second), expected)


@pytest.mark.parametrize("value", [0.0, 3.0, np.nan])
def test_maps_that_point_nowhere_find_nothing(value):
    found, boxes = np.full((1, 8, 8), value), [box(0, 0, 1, 1)]
    assert pointing_hits(found, boxes).tolist() == [0]
    assert energy_inside(found, box_masks(boxes, 8, 8)).tolist() == [0]
    assert best_overlaps(found, boxes, [0.5]).tolist() == [[0]]
