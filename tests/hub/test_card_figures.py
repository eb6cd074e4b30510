"""The pictures of a card: which images they show, and that they are drawn for any number of classes."""

import numpy as np
import pytest
from PIL import Image

from modeling_cssfe.evaluation.score_table import ScoreTable
from modeling_cssfe.hub.card_figures import MAX_NAMED_CLASSES, choose_examples, draw_average_precision


def test_examples_are_medians_of_medians():
    # Counts make classes 0 to 2 head, 3 and 4 tail; class 4 has no positive.
    labels = np.zeros((7, 5), dtype=np.float32)
    labels[:, 0] = [1, 1, 1, 1, 0, 0, 0]
    labels[:, 1] = [0, 1, 1, 1, 1, 0, 0]
    labels[:, 2] = [0, 0, 0, 0, 0, 1, 1]
    labels[:, 3] = [0, 0, 1, 0, 1, 0, 1]
    scores = np.full((7, 5), 0.5)
    scores[:, 1] = [0.9, 0.4, 0.8, 0.1, 0.6, 0.0, 0.0]
    scores[:, 3] = [0.0, 0.0, 0.3, 0.0, 0.2, 0.0, 0.7]
    table = ScoreTable("t", tuple("abcdefg"), tuple("vwxyz"), scores, labels, (200, 200, 200, 3, 3))
    chosen = choose_examples(table, {"v": 0.2, "w": 0.5, "x": 0.9, "y": 0.4, "z": None})
    # Of 0.2, 0.5, 0.9 the median is w's; its positives score 0.4, 0.8, 0.1, 0.6, of which 0.4 is the lower median.
    assert [(entry.group, entry.label, entry.row, entry.score) for entry in chosen] == [
        ("head", "w", 1, 0.4),
        ("tail", "y", 2, 0.3),
    ]


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("classes", [1, MAX_NAMED_CLASSES, MAX_NAMED_CLASSES + 1, 1000])
def test_any_number_of_classes_is_drawn(tmp_path, classes, ending):
    groups = ["head", "medium", "tail"]
    rows = [
        {"name": f"$class_{n}$ <b>", "group": groups[n % 3], "class_count": 2 * n,
         "average_precision": None if n % 7 == 6 else (n % 11) / 10}
        for n in range(classes)
    ]  # fmt: skip
    intervals = {row["name"]: (0.0, 1.0) for row in rows[::2]}
    path = tmp_path / f"drawn.{ending}"
    draw_average_precision(rows, path, "title", intervals)
    if ending == "svg":
        text = path.read_text()
        assert ("$class_0$ &lt;b&gt;" in text) == (classes <= MAX_NAMED_CLASSES)
        return
    with Image.open(path) as opened:
        assert opened.width < 1200
        assert opened.height < 2200
    assert path.stat().st_size < 300_000


def test_no_class_with_a_figure_is_no_error(tmp_path):
    draw_average_precision(
        [{"name": "a", "group": "tail", "class_count": 1, "average_precision": None}], tmp_path / "a.png", "t"
    )
    assert (tmp_path / "a.png").is_file()
