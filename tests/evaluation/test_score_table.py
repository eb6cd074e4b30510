# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest

from modeling_cssfe.evaluation import ScoreTable


GOOD = {
    "name": "mine",
    "image_ids": ("a", "b"),
    "label_names": ("cat", "dog", "cow"),
    "scores": np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 1.0]]),
    "labels": np.array([[1, 0, -1], [0, 1, 0]], dtype=np.float32),
    "class_counts": (200, 30, 4),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": np.zeros((3, 2))}, r"scores have shape \(3, 2\), not \(2, 3\)"),
        ({"class_counts": (1, 2)}, "class_counts has 2 entries for 3 classes"),
        ({"thresholds": (0.5, 0.5)}, "thresholds has 2 entries for 3 classes"),
        ({"thresholds": (0.5, 1.5, 0.5)}, "threshold 1.5 is no probability"),
        ({"image_ids": ("a", "a")}, "image id 'a' occurs twice"),
        ({"label_names": ("cat", "dog", "cat")}, "label name 'cat' occurs twice"),
        ({"scores": np.array([[0.1, 0.2, np.nan], [0, 0, 0]])}, "image 'a' for 'cow' is nan"),
        ({"scores": np.array([[0.1, 0.2, 0.3], [0, 1.5, 0]])}, "image 'b' for 'dog' is 1.5"),
        ({"labels": np.array([[1, 0, 2], [0, 1, 0]])}, "image 'a' for 'cow' is 2"),
        ({"image_ids": (), "scores": np.zeros((0, 3)), "labels": np.zeros((0, 3))}, "no images"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        ScoreTable(**{**GOOD, **changes})
    assert "\n" not in str(error.value)


def test_groups_and_rows():
    table = ScoreTable(**GOOD)
    assert table.groups == ["head", "medium", "tail"]
    one = table.select([1])
    assert one.image_ids == ("b",)
    assert one.scores.tolist() == [[0.4, 0.5, 1.0]]
    assert one.labels.tolist() == [[0, 1, 0]]
