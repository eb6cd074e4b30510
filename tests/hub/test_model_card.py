"""Cards rendered from what is known, with and without images."""

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from sklearn.metrics import average_precision_score
from tiny_runs import TINY_COUNTS, tiny_splits

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.cli import main
from modeling_cssfe.hub.card_facts import is_sealed, read_card_facts, seal
from modeling_cssfe.hub.card_writing import render_facts, write_card
from modeling_cssfe.hub.model_card import find_template, render_model_card
from modeling_cssfe.hub.publish import REPLACED
from modeling_cssfe.hub.staging import linked_pictures, stage_model


ROOT = Path(__file__).parents[2]
GROUPS = {"red": "head", "green": "medium", "blue": "tail"}  # of the tiny run, by its bounds


@pytest.fixture(scope="module")
def judged(tiny_run, tiny_data, tmp_path_factory):
    """A run with thresholds and a card with everything. The card's snippet is run in a process of its own: 10 s."""
    folder = Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("judged") / "run"))
    assert main(["thresholds", str(folder), "--data", str(tiny_data)]) == 0
    arguments = ["--data", str(tiny_data), "--bootstrap", "40", "--seed", "3", "--license", "mit"]
    assert main(["card", str(folder), *arguments]) == 0
    return folder


def tables(card: str) -> list[list[list[str]]]:
    """The cells of every table, as a reader sees them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(card)
    found, row = [], []
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            row = []
            found[-1].append(row)
        elif token.type == "inline" and before.type in ("td_open", "th_open"):
            row.append("".join(child.content for child in token.children))
    return found


def body(card: str) -> str:
    return card.split("---\n", 2)[2]


def section(card: str, title: str) -> str:
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, re.M | re.S)[1]


def results_of(run: Path) -> dict:
    return json.loads((run / "results.json").read_text())


def test_the_data_section_counts_images_by_group(tiny_run):
    (table,) = tables(section((tiny_run / "README.md").read_text(), "Data"))
    counts = [sum("blue" in row for row in tiny_splits()["train"]), sum("green" in r for r in tiny_splits()["train"])]
    assert counts == [TINY_COUNTS["blue"], TINY_COUNTS["green"]]
    assert table[1:] == [
        ["head", "1", "14", "14"],
        ["medium", "1", "8", "8"],
        ["tail", "1", "3", "3"],
        ["all", "3", "3 to 14", "25"],
    ]
    assert "18 images with 1.4 labels each" in (tiny_run / "README.md").read_text()


def test_the_figures_are_those_of_the_results(tiny_run):
    results, card = results_of(tiny_run), (tiny_run / "README.md").read_text()
    figures, classes = tables(section(card, "How good it is"))
    for row, judged in zip(figures[1:], (results["validation"], results["test"]), strict=True):
        assert row[2:] == [f"{100 * judged[f'map_{part}']:.1f}" for part in ("total", "head", "medium", "tail")]
    assert [row[0] for row in figures[1:]] == ["validation", "test"]
    precisions = results["test"]["per_class"]
    assert [(row[0], row[1], row[4]) for row in classes[1:]] == [
        (name, GROUPS[name], f"{100 * precisions[name]:.1f}") for name in ("red", "green", "blue")
    ]


def test_the_metadata_is_what_the_hub_reads(judged):
    data = ModelCard.load(judged / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "mit",
    )
    (split,) = {result.dataset_split for result in data.eval_results}
    assert split == "test"  # the validation split chose the epoch
    total = next(result for result in data.eval_results if result.metric_name == "mAP total")
    recorded = json.loads((judged / "card.json").read_text())["judged"]
    assert total.metric_value == pytest.approx(recorded["figures"]["map_total"], abs=5e-5)
    assert total.metric_args["low"] <= total.metric_value <= total.metric_args["high"]


def test_intervals_are_those_of_resampled_average_precisions(judged, tiny_data):
    from modeling_cssfe.evaluation.scoring import score_model

    table = score_model(judged, str(tiny_data), "test")
    generator = np.random.default_rng(3)
    samples = []
    for _ in range(40):
        rows = generator.integers(len(table.labels), size=len(table.labels))
        truth, scores = table.labels[rows], table.scores[rows]
        present = [column for column in range(3) if truth[:, column].any()]
        samples.append(np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in present]))
    low, high = np.quantile(samples, [0.025, 0.975])
    shown = tables(section((judged / "README.md").read_text(), "How good it is"))[0][2][2]
    assert shown.split(" ", 1)[1] == f"[{100 * low:.1f}, {100 * high:.1f}]"


def test_the_snippet_prints_what_the_card_says(judged, tmp_path, monkeypatch, capsys):
    usage = section((judged / "README.md").read_text(), "How to use it")
    code, printed = re.search(r"```python\n(.*?)```.*```text\n(.*?)```", usage, re.S).groups()
    folder = Path(shutil.copytree(judged, tmp_path / "model"))
    shutil.copyfile(folder / "figures" / "example.jpg", folder / "photograph.jpg")
    monkeypatch.chdir(folder)
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out == printed
    scores = [float(line.split()[0]) for line in printed.splitlines()]
    config = CSSFEConfig.from_pretrained(folder)
    for line, score in zip(printed.splitlines(), scores, strict=True):
        label, decision = line.split("  ")[1].split(": ")
        assert decision == ("yes" if score >= config.thresholds[config.label_names.index(label)] else "no")


def test_a_snippet_without_thresholds_runs_too(tiny_run, tmp_path, monkeypatch, capsys, tiny_data):
    from tiny_runs import make_scene

    card = (tiny_run / "README.md").read_text()
    assert "was not run" in section(card, "How to use it")
    folder = Path(shutil.copytree(tiny_run, tmp_path / "model"))
    make_scene(np.random.default_rng(0), ["red"]).save(folder / "photograph.jpg")
    monkeypatch.chdir(folder)
    exec(compile(re.search(r"```python\n(.*?)```", card, re.S)[1], "card", "exec"), {})
    assert sorted(line.split()[1] for line in capsys.readouterr().out.splitlines()) == ["blue", "green", "red"]


def test_thresholds_stand_in_the_card_with_their_origin(judged):
    text = section((judged / "README.md").read_text(), "Thresholds")
    (table,) = tables(text)
    config = CSSFEConfig.from_pretrained(judged)
    assert {row[0]: row[3] for row in table[1:]} == {
        name: f"{value:.3f}" for name, value in zip(config.label_names, config.thresholds, strict=True)
    }
    assert "12 images, split `validation`" in text
    assert all("(few)" in row[2] for row in table[1:])  # six or fewer positives each
    assert "rest mostly on the other classes" in section((judged / "README.md").read_text(), "Limits")


def test_pictures_lie_beside_the_card_and_show_something(judged):
    from PIL import Image

    pictures = linked_pictures(judged / "README.md", judged)
    assert [picture.as_posix() for picture in pictures] == [
        "figures/average_precision.png",
        "figures/maps.jpg",
        "figures/example.jpg",
    ]
    for picture in pictures:
        with Image.open(judged / picture) as opened:
            assert len(np.unique(np.asarray(opened.convert("L")))) > 20
    recorded = json.loads((judged / "card.json").read_text())["pictures"]["maps"]["examples"]
    assert [(entry["group"], entry["label"]) for entry in recorded] == [
        (GROUPS[n], n) for n in ("red", "green", "blue")
    ]


def test_no_place_of_this_machine_is_named(judged, tiny_data):
    assert str(tiny_data) in (judged / "results.json").read_text()
    for name in ("README.md", "card.json"):
        text = (judged / name).read_text()
        for place in (str(tiny_data), str(judged), str(Path.home()) + "/", str(ROOT), "/tmp"):
            assert place not in text, f"{name} names {place}"
    assert f"data: {tiny_data.name}" in (judged / "README.md").read_text()


def test_a_card_without_images_says_what_is_missing(tiny_run):
    card = (tiny_run / "README.md").read_text()
    assert "No intervals were computed" in section(card, "How good it is")
    assert "None were chosen" in section(card, "Thresholds")
    assert "No pictures were drawn" in section(card, "What it looks at")
    assert "was not run" in section(card, "How to use it")
    assert "not measured" in section(card, "How it was trained")
    assert "no right to use" in section(card, "Licence")
    assert "![" not in card


@pytest.mark.parametrize(
    ("lost", "where", "line"),
    [
        ("environment", "How it was trained", "hardware"),
        ("wall_time_seconds", "How it was trained", "time"),
        ("mixed_precision", "How it was trained", "precision"),
        ("num_training_images", "How it was trained", "images"),
    ],
)
def test_what_a_run_did_not_record_is_said_to_be_so(tiny_run, lost, where, line):
    results = results_of(tiny_run)
    del results[lost]
    card = render_model_card(results, CSSFEConfig.from_pretrained(tiny_run))
    rows = dict(tables(section(card, where))[0])
    assert rows[line] == "not recorded"


def test_a_group_without_positives_has_no_figure_and_the_card_says_why(tiny_run):
    results = results_of(tiny_run)
    results["test"] = copy.deepcopy(results["test"]) | {"map_tail": None, "absent_classes": ["blue"]}
    next(row for row in results["test"]["class_table"] if row["name"] == "blue")["average_precision"] = None
    text = section(render_model_card(results, CSSFEConfig.from_pretrained(tiny_run)), "How good it is")
    figures, classes = tables(text)
    assert figures[2][-1] == "-"
    assert classes[3][-1] == "-"
    assert "Without a positive image in the judged split, and left out of all means: blue." in text
    assert "-: the group has no class with a positive image." in text


@pytest.mark.parametrize("lost", ["recipe", "validation"])
def test_results_of_another_kind_are_refused_in_one_line(run, lost, capsys):
    results = results_of(run)
    del results[lost]
    (run / "results.json").write_text(json.dumps(results))
    assert main(["card", str(run)]) == 2
    error = capsys.readouterr().err
    assert f"has no '{lost}'" in error
    assert error.count("\n") == 1


def test_a_model_without_results_can_be_judged(tiny_run, tiny_data, tmp_path):
    CSSFEForImageClassification.from_pretrained(tiny_run).save_pretrained(tmp_path / "bare")
    CSSFEImageProcessor.from_pretrained(tiny_run).save_pretrained(tmp_path / "bare")
    assert "No results were recorded" in render_facts(read_card_facts(tmp_path / "bare"))
    write_card(tmp_path / "bare", tiny_data, resamples=2, pictures=False)
    card = (tmp_path / "bare" / "README.md").read_text()
    figures = tables(section(card, "How good it is"))[0]
    assert figures[1][0] == "validation"  # never the test split unasked
    assert figures[1][2].split()[0] == f"{100 * results_of(tiny_run)['validation']['map_total']:.1f}"
    assert dict(tables(section(card, "How it was trained"))[0])["epochs"] == "not recorded"
    assert "maps.jpg" not in card


def test_other_data_gets_a_row_of_its_own(run, tiny_data, tmp_path):
    other = Path(shutil.copytree(tiny_data, tmp_path / "other_data"))
    write_card(run, other, split="validation", resamples=2, pictures=False)
    rows = tables(section((run / "README.md").read_text(), "How good it is"))[0][1:]
    assert [row[0] for row in rows] == [f"{tiny_data.name}, validation", f"{tiny_data.name}, test",
                                        "other_data, validation"]  # fmt: skip
    names = {result.dataset_name for result in ModelCard.load(run / "README.md").data.eval_results}
    assert names == {tiny_data.name, "other_data"}


def test_a_figure_that_does_not_come_out_again_is_told(run, tiny_data):
    results = results_of(run)
    results["test"]["map_total"] = 0.123
    (run / "results.json").write_text(json.dumps(results))
    write_card(run, tiny_data, resamples=2, pictures=False)
    assert "the run itself recorded 12.3" in (run / "README.md").read_text()


def test_what_was_judged_is_kept_until_the_weights_change(judged, tmp_path, capsys):
    folder = Path(shutil.copytree(judged, tmp_path / "run"))
    before = (folder / "README.md").read_text()
    assert main(["card", str(folder)]) == 0
    assert (folder / "README.md").read_text() == before
    capsys.readouterr()
    model = CSSFEForImageClassification.from_pretrained(folder)
    next(model.parameters()).data.add_(1)
    model.save_pretrained(folder)
    assert read_card_facts(folder).outdated
    assert main(["card", str(folder)]) == 0
    assert "other weights" in capsys.readouterr().err
    after = (folder / "README.md").read_text()
    assert "No intervals were computed" in after
    assert "maps.jpg" not in after
    assert "`mit`" in after


def test_energy_and_co2_come_from_codecarbon(run):
    (run / "emissions.csv").write_text(
        "timestamp,project_name,emissions,energy_consumed,country_name\n"
        "2026-01-01,cssfe,9,9,Nowhere\n2026-01-02,cssfe,0.0421,0.16,Portugal\n"
    )
    card = render_facts(read_card_facts(run))
    assert "42.1 g CO2-equivalents for 0.16 kWh, Portugal" in card
    assert ModelCard(card).data.co2_eq_emissions["emissions"] == pytest.approx(42.1)
    (run / "emissions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"not what CodeCarbon writes") as caught:
        render_facts(read_card_facts(run))
    assert "\n" not in str(caught.value)


def test_class_names_are_no_markup(tiny_run):
    results, config = results_of(tiny_run), CSSFEConfig.from_pretrained(tiny_run)
    name = "a|b *c* <img src=x> `d` [e](f) _g_ #"
    results["test"]["class_table"][0]["name"] = name
    card = render_model_card(results, config)
    assert name in [row[0] for row in tables(section(card, "How good it is"))[1]]
    assert "<img" not in MarkdownIt("commonmark").enable("table").render(body(card)).replace("&lt;img", "")


def test_many_classes_are_cut_with_a_pointer_to_the_rest(tiny_run):
    results = results_of(tiny_run)
    row = results["test"]["class_table"][0]
    results["test"]["class_table"] = [row | {"name": f"class {n}", "class_count": n} for n in range(150)]
    text = section(render_model_card(results, CSSFEConfig.from_pretrained(tiny_run)), "How good it is")
    names = [cells[0] for cells in tables(text)[1][1:]]
    assert names == [f"class {n}" for n in range(149, 49, -1)]
    assert "of 150; all are in `results.json`" in text


def test_a_card_knows_whether_it_was_edited(tiny_run):
    card = (tiny_run / "README.md").read_text()
    assert is_sealed(card)
    assert is_sealed(card.replace("\n", "\r\n"))
    assert not is_sealed(card + "\nMine.\n")
    assert not is_sealed(body(card))
    with pytest.raises(ValueError, match="begins with its metadata"):
        seal("# No head\n")


def test_the_template_and_the_card_have_the_same_sections(tiny_run):
    assert find_template() == ROOT / "model_cards" / "template.md"
    wanted = re.findall(r"^## .*", find_template().read_text(), re.M)
    assert re.findall(r"^## .*", (tiny_run / "README.md").read_text(), re.M) == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--license", "My licence"], "license 'My licence' is no identifier"),
        (["--model_id", "/home/me/model"], "model_id '/home/me/model' is no repository name"),
        (["--split", "test"], "give --data"),
        (["--seed", "-1"], "seed is -1"),
        (["--bootstrap", "1", "--data", "DATA"], "resamples is 1"),
        (["--data", "DATA", "--split", "dev"], "no split 'dev'; it has"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_nothing_changes(run, tiny_data, capsys, arguments, message):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    arguments = [str(tiny_data) if argument == "DATA" else argument for argument in arguments]
    assert main(["card", str(run), *arguments]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(error) == 1
    assert message in error[0]
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_card_that_was_edited_is_not_overwritten(run, tmp_path, capsys):
    edited = (run / "README.md").read_text().replace("# CSSFE", "# My CSSFE")
    (run / "README.md").write_text(edited)
    assert main(["card", str(run)]) == 2
    assert "was edited by hand" in capsys.readouterr().err
    assert (run / "README.md").read_text() == edited
    assert main(["card", str(run), "--output", str(tmp_path / "new")]) == 0
    assert is_sealed((tmp_path / "new" / "README.md").read_text())


def test_a_model_that_does_not_know_its_counts_has_no_groups(tiny_run):
    config = CSSFEConfig.from_pretrained(tiny_run)
    config.class_counts = None
    card = render_model_card(None, config)
    assert ["labels", "3"] in tables(card)[0]
    assert "Training images of each class: not recorded." in section(card, "Data")


def test_a_card_that_cannot_be_written_leaves_the_old_one(run, monkeypatch, capsys):
    import os

    before = (run / "README.md").read_bytes()
    replace = os.replace

    def full_disk(source, target):
        if Path(target).name == "README.md":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_disk)
    assert main(["card", str(run), "--license", "mit"]) != 0
    assert "No space left" in capsys.readouterr().err
    assert (run / "README.md").read_bytes() == before
    assert not list(run.glob(".saving-*"))


def test_output_takes_card_and_pictures_and_leaves_the_model(judged, tmp_path):
    before = {file.name for file in judged.iterdir()}
    assert main(["card", str(judged), "--output", str(tmp_path / "shown"), "--model_id", "user/name"]) == 0
    shown = {file.relative_to(tmp_path / "shown").as_posix() for file in (tmp_path / "shown").rglob("*.*")}
    assert shown == {"README.md", *(f"figures/{n}" for n in ("average_precision.png", "maps.jpg", "example.jpg"))}
    assert 'model="user/name"' in (tmp_path / "shown" / "README.md").read_text()
    assert {file.name for file in judged.iterdir()} == before
    assert 'model="."' in (judged / "README.md").read_text()


def test_a_push_takes_the_card_with_its_pictures_under_the_new_name(judged, tmp_path):
    from modeling_cssfe.demo.card import render_card

    stage_model(judged, tmp_path / "staged", "user/name")
    staged = tmp_path / "staged"
    card = (staged / "README.md").read_text()
    assert card.count('model="user/name"') == 1
    assert is_sealed(card)
    own = (judged / "README.md").read_text()
    assert body(card) == body(own).replace('model="."', 'model="user/name"')
    for name in ("card.json", "figures/average_precision.png", "figures/maps.jpg", "figures/example.jpg"):
        assert (staged / name).is_file()
        assert name in REPLACED, "a later push without it would leave an outdated one"
    assert render_card(staged).count('<img src="data:image/') == 3
    assert "picture not shown" not in render_card(staged)


def test_a_push_renders_the_card_again_unless_it_was_edited(run, tmp_path):
    config = json.loads((run / "config.json").read_text()) | {"thresholds": [0.25, 0.5, 0.75]}
    (run / "config.json").write_text(json.dumps(config))
    stage_model(run, tmp_path / "again", "user/name")
    assert "0.250" in section((tmp_path / "again" / "README.md").read_text(), "Thresholds")
    edited = (run / "README.md").read_text() + '\nMine: `AutoModel.from_pretrained("other/model")`.\n'
    (run / "README.md").write_text(edited)
    stage_model(run, tmp_path / "kept", "user/name")
    assert (tmp_path / "kept" / "README.md").read_text() == edited.replace('model="."', 'model="user/name"')


def test_what_is_said_of_other_weights_is_not_sent(judged, tmp_path):
    folder = Path(shutil.copytree(judged, tmp_path / "run"))
    model = CSSFEForImageClassification.from_pretrained(folder)
    next(model.parameters()).data.add_(1)
    model.save_pretrained(folder)
    stage_model(folder, tmp_path / "staged", "user/name")
    assert not (tmp_path / "staged" / "card.json").exists()
    assert not (tmp_path / "staged" / "figures" / "maps.jpg").exists()
