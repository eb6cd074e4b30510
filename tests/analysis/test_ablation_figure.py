import json
import math

import pytest
from PIL import Image

from modeling_cssfe.analysis.ablation_figure import draw_ablation, read_ablation
from modeling_cssfe.training import Recipe


def write_run(folder, ablation, seed, figures, **recipe):
    folder.mkdir(parents=True)
    names = ("map_total", "map_head", "map_medium", "map_tail")
    settings = {"ablation": ablation, "seed": seed, "test_split": "test", "label_embeddings": "clip", **recipe}
    content = {"recipe": settings, "seed": seed, "test": dict(zip(names, figures, strict=True))}
    (folder / "results.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def runs(tmp_path):
    values = {"net3": [0.71, 0.75, 0.79], "net0": [0.60, 0.62]}
    return [
        write_run(tmp_path / f"{name}_{seed}", name, seed, (total, total, None if name == "net0" else total, 0.5))
        for name, totals in values.items()
        for seed, total in enumerate(totals)
    ]


def test_rows_are_ablations_in_their_order_with_a_t_interval_over_seeds(runs):
    rows, notes = read_ablation(runs[::-1])
    assert [(row.name, row.seeds) for row in rows] == [("Net-0", (0, 1)), ("Net-3 (CSSFE)", (0, 1, 2))]
    assert not notes
    assert rows[1].mean("map_total") == pytest.approx(0.75)
    # Student's t for 2 degrees of freedom, two-sided 95 %: 4.3027 (any table); the sample's deviation is .04.
    assert rows[1].half_interval("map_total") == pytest.approx(4.3027 * 0.04 / math.sqrt(3), rel=1e-4)
    assert rows[0].mean("map_medium") is None
    assert rows[0].half_interval("map_medium") is None


def test_runs_may_be_told_apart_by_their_label_embeddings(tmp_path):
    first = write_run(tmp_path / "a", "net3", 0, (0.7,) * 4, label_embeddings="folder/voc20_glove.safetensors")
    second = write_run(tmp_path / "b", "net3", 0, (0.8,) * 4, label_embeddings="random", epochs=3)
    rows, notes = read_ablation([first, second], by="label_embeddings")
    assert [row.name for row in rows] == ["voc20_glove", "random"]
    assert rows[0].half_interval("map_tail") is None  # one seed
    assert notes == [f"the rows differ in epochs too: voc20_glove {Recipe().epochs}, random 3"]  # by default


def test_a_table_of_trials_is_read_by_the_rows_asked_for(tmp_path):
    table = tmp_path / "trials.csv"
    table.write_text(
        "trial,seed,map_total,map_head,map_medium,map_tail,seconds\n"
        "plain,1,.5,.6,.5,.4,9\nplain,0,.7,.6,.5,,9\nmasked,0,.9,.8,.7,.6,9\nother,0,.1,.1,.1,.1,9\n"
    )
    rows, _ = read_ablation([table], rows={"with mask": "masked", "without": "plain"})
    assert [(row.name, row.seeds) for row in rows] == [("with mask", (0,)), ("without", (0, 1))]
    assert rows[1].figures["map_total"] == (0.7, 0.5)
    assert rows[1].mean("map_tail") is None
    with pytest.raises(ValueError, match="no runs of 'maskd'; did you mean 'masked'"):
        read_ablation([table], rows={"a": "maskd"})


def test_runs_that_cannot_be_averaged_are_refused(runs, tmp_path):
    again = write_run(tmp_path / "again", "net3", 2, (0.7,) * 4)
    with pytest.raises(ValueError, match="second run of 'net3' with the seed 2"):
        read_ablation([*runs, again])
    longer = write_run(tmp_path / "longer", "net3", 3, (0.7,) * 4, epochs=9)
    with pytest.raises(ValueError, match="both 'net3' but differ in epochs"):
        read_ablation([*runs, longer])
    with pytest.raises(ValueError, match="choose one of ablation, label_embeddings"):
        read_ablation(runs, by="colour")
    with pytest.raises(ValueError, match="give it alone"):
        read_ablation([*runs, tmp_path / "trials.csv"])
    (tmp_path / "empty.csv").write_text("trial,seed,map_total\n")
    with pytest.raises(ValueError, match="no column 'map_head'"):
        read_ablation([tmp_path / "empty.csv"])
    with pytest.raises(FileNotFoundError, match="no table"):
        read_ablation([tmp_path / "lost.csv"])


def test_the_figure_is_drawn_as_png_and_svg(runs, tmp_path):
    rows, _ = read_ablation(runs)
    draw_ablation(rows, tmp_path / "figure.png")
    assert Image.open(tmp_path / "figure.png").format == "PNG"
    draw_ablation(rows[:1], tmp_path / "figure.svg", title="costs $5 or $6")
    assert "<svg" in (tmp_path / "figure.svg").read_text()
    with pytest.raises(ValueError, match=r"choose a .png or .svg"):
        draw_ablation(rows, tmp_path / "figure.pdf")
    with pytest.raises(ValueError, match="no rows to draw"):
        draw_ablation([], tmp_path / "figure.png")
