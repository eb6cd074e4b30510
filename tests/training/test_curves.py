import io
import json

import pytest
from PIL import Image

from modeling_cssfe.training import curves
from modeling_cssfe.training.curves import draw_curves, read_log


def entry(epoch, judged=True):
    probabilities = {
        "head": {"positive": 0.5 + epoch / 100, "negative": 0.25},
        "tail": {"positive": None, "negative": 0},
    }
    line = {"epoch": epoch, "loss": 1 / epoch, "training_probabilities": probabilities}
    if judged:
        line |= {"map_total": 0.3 + 0.1 * (epoch == 2), "map_head": 0.5, "map_medium": None, "map_tail": epoch / 10}
        line["validation_probabilities"] = probabilities
    return line


@pytest.fixture
def figures(monkeypatch):
    drawn = []
    draw = curves._png

    def keep(figure):
        drawn.append(figure)
        return draw(figure)

    monkeypatch.setattr(curves, "_png", keep)
    return drawn


def lines_of(axes):
    return {line.get_label(): ([*line.get_xdata()], [*line.get_ydata()]) for line in axes.lines}


def test_what_is_drawn_is_what_was_logged(figures):
    pictures = draw_curves([entry(1), entry(2, judged=False), entry(3)])
    assert list(pictures) == ["loss.png", "map.png", "probabilities.png"]
    loss, maps, probabilities = (figure.axes for figure in figures)
    assert list(lines_of(loss[0]).values()) == [([1, 2, 3], [1, 1 / 2, 1 / 3])]
    drawn = lines_of(maps[0])
    assert drawn["head"] == ([1, 3], [50.0, 50.0])
    assert drawn["tail"] == ([1, 3], [10.0, 30.0])
    assert "medium" not in drawn
    training, validation = (lines_of(axes) for axes in probabilities)
    assert training["head, positives"] == ([1, 2, 3], [0.51, 0.52, 0.53])
    assert validation["head, positives"] == ([1, 3], [0.51, 0.53])
    assert validation["tail, negatives"] == ([1, 3], [0, 0])
    assert "tail, positives" not in training


def test_the_best_epoch_is_marked(figures):
    draw_curves([entry(1), entry(2), entry(3)])
    best = lines_of(figures[1].axes[0])["best epoch (2)"]
    assert best[0] == [2, 2]


def test_pictures_are_png_and_equal_logs_give_equal_ones():
    first, second = draw_curves([entry(1), entry(2)]), draw_curves([entry(1), entry(2)])
    assert first == second
    for picture in first.values():
        assert Image.open(io.BytesIO(picture)).format == "PNG"


def test_what_is_missing_is_not_drawn():
    assert list(draw_curves([{"epoch": 1, "loss": 0.5}])) == ["loss.png"]
    assert draw_curves([]) == {}


def test_a_damaged_log_is_named(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps(entry(1)) + "\n{half\n")
    with pytest.raises(ValueError, match=r"log\.jsonl' line 2 is no JSON"):
        read_log(tmp_path / "log.jsonl")


def test_a_run_leaves_its_curves(tiny_run):
    names = sorted(file.name for file in (tiny_run / "curves").iterdir())
    assert names == ["loss.png", "map.png", "probabilities.png"]
    assert all(Image.open(tiny_run / "curves" / name).size[0] > 500 for name in names)
