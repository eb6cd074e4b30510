# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import warnings

import numpy as np
import pytest
import torch

from modeling_cssfe.metrics import average_precision, long_tail_map


SCORES = np.array([[0.9, 0.2], [0.8, 0.7], [0.3, 0.6]])
LABELS = np.array([[1, 0], [0, 1], [1, 0]])
# Worked out by hand: class 0 has its positives at ranks 1 and 3, class 1 at rank 1.
EXPECTED = [(1 / 1 + 2 / 3) / 2, 1.0]


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int8, np.int64, np.float16, np.float32, np.float64])
def test_labels_of_every_numeric_dtype_are_read(dtype):
    np.testing.assert_allclose(average_precision(SCORES, LABELS.astype(dtype)), EXPECTED)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float32])
def test_label_tensors_of_every_dtype_are_read(dtype):
    np.testing.assert_allclose(average_precision(torch.tensor(SCORES), torch.tensor(LABELS).to(dtype)), EXPECTED)


def test_nested_lists_tuples_and_lists_of_tensors_are_read():
    np.testing.assert_allclose(average_precision(SCORES.tolist(), tuple(map(tuple, LABELS.tolist()))), EXPECTED)
    scores = [torch.tensor(row, requires_grad=True) for row in SCORES]
    np.testing.assert_allclose(average_precision(scores, list(torch.tensor(LABELS))), EXPECTED)


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float16, np.longdouble])
def test_scores_of_other_dtypes_are_widened(dtype):
    # 0 and 1 only, so that every dtype can hold them: one positive tied with one negative at the top of two images.
    assert average_precision(np.array([[1], [1]], dtype=dtype), [[1], [0]])[0] == 0.5


@pytest.mark.parametrize("unknown", [-1, np.nan, None])
def test_minus_one_nan_and_none_are_unknown(unknown):
    labels = LABELS.astype(object)
    labels[1, 0] = unknown  # the negative above the second positive of class 0
    np.testing.assert_allclose(average_precision(SCORES, labels.tolist()), [1, 1])


def test_the_masked_entries_of_a_masked_array_are_unknown():
    mask = np.zeros(LABELS.shape, dtype=bool)
    mask[1, 0] = True
    np.testing.assert_allclose(average_precision(SCORES, np.ma.masked_array(LABELS, mask)), [1, 1])


def _with(array, value):
    changed = array.astype(float)
    changed[2, 1] = value
    return changed


@pytest.mark.parametrize(
    ("scores", "labels", "kind", "message"),
    [
        (_with(SCORES, np.nan), LABELS, ValueError, r"score of image 2 for class 1 \(LABEL_1\) is nan"),
        (_with(SCORES, np.inf), LABELS, ValueError, r"score of image 2 for class 1 \(LABEL_1\) is inf"),
        (_with(SCORES, -np.inf), LABELS, ValueError, r"score of image 2 for class 1 \(LABEL_1\) is -inf"),
        (SCORES, _with(LABELS, 0.5), ValueError, r"label of image 2 for class 1 \(LABEL_1\) is 0\.5; expected 1 or 0"),
        (SCORES, _with(LABELS, 2), ValueError, r"label of image 2 for class 1 \(LABEL_1\) is 2\.0"),
        (SCORES, _with(LABELS, -2), ValueError, r"label of image 2 for class 1 \(LABEL_1\) is -2\.0"),
        (SCORES, _with(LABELS, np.inf), ValueError, r"label of image 2 for class 1 \(LABEL_1\) is inf"),
        (SCORES, LABELS[:2], ValueError, r"got \(3, 2\) and \(2, 2\)"),
        (SCORES, LABELS.T, ValueError, r"got \(3, 2\) and \(2, 3\)"),
        (SCORES[:, 0], LABELS[:, 0], ValueError, r"must both be \(images, classes\), got \(3,\) and \(3,\)"),
        (SCORES[:0], LABELS[:0], ValueError, r"scores are empty, shape \(0, 2\)"),
        ([[0.1, 0.2], [0.3]], LABELS, ValueError, "scores cannot be read as a matrix"),
        (SCORES, [[1, 0], [1]], ValueError, "references cannot be read as a matrix"),
        (SCORES, [["yes", "no"]] * 3, TypeError, "references must be real numbers, got dtype <U3"),
        (SCORES * 1j, LABELS, TypeError, "scores must be real numbers, got dtype complex128"),
        ([[None, 0.2]], [[1, 0]], ValueError, r"score of image 0 for class 0 \(LABEL_0\) is nan"),
        ([[{}, 0.2]], [[1, 0]], TypeError, "scores cannot be read as a matrix"),
    ],
)
def test_bad_scores_and_labels_are_refused_in_one_line_that_names_the_place(scores, labels, kind, message):
    with pytest.raises(kind, match=message) as error:
        average_precision(scores, labels)
    assert "\n" not in str(error.value)


def test_the_place_of_a_bad_score_is_right_beyond_the_first_block_of_images():
    scores = np.zeros((3000, 100), dtype=np.float32)
    scores[2718, 28] = np.nan
    names = [f"class {index}" for index in range(100)]
    with pytest.raises(ValueError, match=r"score of image 2718 for class 28 \(class 28\) is nan"):
        long_tail_map(scores, np.zeros_like(scores), [1] * 100, label_names=names)


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (["cat"], ValueError, "label_names has 1 names but scores have 2 columns"),
        (["cat", "cat"], ValueError, "label_names holds 'cat' more than once"),
        (["cat", 3], TypeError, "label_names must be strings, got 3"),
        ("ab", TypeError, "got the single string 'ab'"),
    ],
)
def test_bad_names_are_refused(names, kind, message):
    with pytest.raises(kind, match=message):
        long_tail_map(SCORES, LABELS, [100, 5], label_names=names)


@pytest.mark.parametrize(("workers", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), ("all", TypeError)])
def test_an_impossible_number_of_threads_is_refused(workers, kind):
    with pytest.raises(kind, match="num_workers must be"):
        average_precision(SCORES, LABELS, num_workers=workers)


def test_nothing_is_warned_of_when_all_is_well():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        long_tail_map(SCORES, LABELS, [100, 5])
