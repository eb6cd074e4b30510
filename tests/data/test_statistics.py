# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from modeling_cssfe.data import class_statistics, label_matrix, label_names_of, multi_hot, require_every_class


NAMES = ["ant", "bee", "cat", "dog"]


def make(labels: list[list[int]], unknown: list[list[int]] | None = None) -> datasets.Dataset:
    feature = datasets.List(datasets.ClassLabel(names=NAMES))
    columns, features = {"labels": labels}, {"labels": feature}
    if unknown is not None:
        columns, features = columns | {"unknown_labels": unknown}, features | {"unknown_labels": feature}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def test_multi_hot_marks_present_and_unknown():
    vector = multi_hot([2, 0, 2], 4, unknown=[3])
    assert vector.dtype == np.float32
    assert vector.tolist() == [1, 0, 1, -1]


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_id_out_of_range_is_refused(label):
    with pytest.raises(ValueError, match=f"label id {label} is out of range; with 4 classes ids run from 0 to 3"):
        multi_hot([label], 4)
    with pytest.raises(ValueError, match=f"label id {label} is out of range"):
        multi_hot([], 4, unknown=[label])


def test_a_label_cannot_be_present_and_unknown():
    with pytest.raises(ValueError, match="label id 1 is both present and unknown"):
        multi_hot([1], 4, unknown=[1])
    with pytest.raises(ValueError, match="row 1: label id 2 is both present and unknown"):
        label_matrix(make([[0], [2]], [[], [2]]))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=12))
def test_the_matrix_is_that_of_scikit_learn(labels):
    expected = MultiLabelBinarizer(classes=range(4)).fit_transform(labels)
    np.testing.assert_array_equal(label_matrix(make(labels)), expected)


def test_the_matrix_follows_a_selection_and_a_shuffle():
    dataset = make([[0], [1], [], [3, 2]])
    np.testing.assert_array_equal(label_matrix(dataset.select([3, 1])), [[0, 0, 1, 1], [0, 1, 0, 0]])


def test_statistics_count_images_not_mentions():
    statistics = class_statistics(make([[0, 0], [0, 2], [], [], [1]], [[], [1], [3], [], []]))
    assert statistics.label_names == tuple(NAMES)
    assert statistics.class_counts == (2, 1, 1, 0)
    assert statistics.unknown_counts == (0, 1, 0, 1)
    assert statistics.num_samples == 5
    assert statistics.labels_per_image == (2, 2, 1)
    assert statistics.unlabeled == 1  # the third has an unknown label
    assert statistics.mean_labels == pytest.approx(4 / 5)


def test_a_class_without_images_is_named():
    with pytest.raises(ValueError, match=r"2 of 4 classes have no image in the split 'train': 'bee', 'dog'; add"):
        require_every_class(class_statistics(make([[0], [2]])))
    require_every_class(class_statistics(make([[0, 1], [2, 3]])))


def test_labels_without_names_are_refused():
    dataset = datasets.Dataset.from_dict({"labels": [[0]]})
    with pytest.raises(ValueError, match=r"not List\(ClassLabel"):
        label_names_of(dataset)


def test_fewer_names_than_ids_are_refused():
    with pytest.raises(ValueError, match="row 1: label id 3 is out of range; with 2 classes"):
        class_statistics(make([[0], [3]]), ["ant", "bee"])
