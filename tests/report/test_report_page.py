import io
import os
import warnings
from base64 import b64decode, b64encode
from hashlib import sha256

import numpy as np
import pytest
import torch
from PIL import Image
from report_cases import HOSTILE_ID, HOSTILE_NAMES, Page, hostile_table, make_dataset, make_table
from torch import nn

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.evaluation import ScoreTable
from modeling_cssfe.metrics import long_tail_map
from modeling_cssfe.report import write_report
from modeling_cssfe.report.figures import draw_pictures
from modeling_cssfe.report.measures import judge


DASH = "\N{EN DASH}"
INTERVALS = {
    "runs/net3": {
        "map_total": (0.4, 0.6),
        "map_tail": [0.123, 0.987],
        "map_medium": None,
        "f1_macro": (0.1, float("nan")),
        "per_class": {"dog": (0.2, 0.9), "horse": None},
    }
}
PICTURES = ["calibration", "confusion", "precision_recall", "training_count"]


def expected_figures(table):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return long_tail_map(table.scores, table.labels, table.class_counts, label_names=table.label_names)


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def drawn():
    return draw_pictures(judge(make_table()))


@pytest.fixture
def quick(drawn, monkeypatch):
    """Pictures drawn once, for tests that look at something else: to draw them takes a second a table."""
    monkeypatch.setattr("modeling_cssfe.report.page.draw_pictures", lambda judgement, intervals: drawn)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Table, its intervals, the folder of the report and the page."""
    table = make_table()
    folder = tmp_path_factory.mktemp("plain")
    path = write_report(
        [table], folder, intervals=INTERVALS, dataset=make_dataset(table, broken=table.image_ids[:20]), progress=False
    )
    return table, folder, read_page(path)


def test_class_table_holds_the_figures_of_long_tail_map(plain):
    table, _, page = plain
    expected = {row["name"]: row for row in expected_figures(table)["class_table"]}
    columns = {
        "training images": "class_count", "positives": "num_positives", "AP": "average_precision", "AUROC": "auroc",
        "precision": "precision", "recall": "recall", "F1": "f1", "ECE": "ece",
    }  # fmt: skip
    for heading, key in columns.items():
        cells = page.column("run-1-class-table", heading)
        assert list(cells) == ["person", "dog", "cow", "horse"]
        for name, (text, value) in cells.items():
            wanted = expected[name][key]
            assert value == ("" if wanted is None else str(wanted))
            assert text == (
                DASH if wanted is None else str(wanted) if isinstance(wanted, int) else f"{100 * wanted:.1f}"
            )
    unknown = page.column("run-1-class-table", "unknown")
    assert {name: int(text) for name, (text, _) in unknown.items()} == dict(
        zip(table.label_names, (table.labels < 0).sum(axis=0).tolist(), strict=True)
    )


def test_group_table_and_cards_hold_the_means(plain):
    table, _, page = plain
    expected = expected_figures(table)
    for heading, key in {
        "mAP": "map",
        "F1": "f1_macro",
        "AUROC": "auroc_macro",
        "calibration error": "ece_macro",
    }.items():
        cells = page.column("run-1-group-table", heading)
        for group in ("head", "medium", "tail"):
            assert cells[group][1] == str(expected["groups"][group][key])
        assert cells["all"][1] == str(expected["map_total" if key == "map" else key])
    every = {row[0][0]: row[1] for row in page.tables["run-1-figure-table"][1:]}
    assert every["coverage error (a number of classes)"][0] == f"{expected['coverage_error']:.2f}"
    assert every["F1, mean over images"][1] == str(expected["f1_samples"])


def test_intervals_are_shown_where_there_are_some_and_a_dash_where_not(plain):
    _, _, page = plain
    groups = page.column("run-1-group-table", "interval")
    assert [groups[name][0] for name in ("all", "tail", "medium")] == ["40.0 to 60.0", "12.3 to 98.7", DASH]
    classes = page.column("run-1-class-table", "interval")
    assert [classes[name] for name in ("dog", "horse")] == [["20.0 to 90.0", "0.2"], [DASH, ""]]
    assert "The level of the intervals was not given." in page.text


@pytest.mark.usefixtures("quick")
def test_without_intervals_the_page_says_that_they_were_not_computed(tmp_path):
    page = read_page(write_report([make_table()], tmp_path))
    assert "Intervals were not computed." in page.text
    assert page.text.count("interval not computed") == 4
    assert "interval" not in [cell[0] for cell in page.tables["run-1-class-table"][0]]
    assert "No data set was given" in page.text


def test_head_names_absent_classes_unknown_labels_and_what_a_dash_means(plain):
    table, _, page = plain
    text = " ".join(page.spaced.split())
    assert "1 of 4 classes has no positive image and is left out of every mean horse" in text
    assert f"unknown labels {int((table.labels < 0).sum())}, left out" in text
    assert "A dash (\N{EN DASH}) means that there is no figure" in text
    assert "images 60 classes 4: 1 head , 1 medium , 2 tail" in text


def test_nothing_points_outside_and_every_picture_is_inside(plain):
    _, _, page = plain
    for tag, attributes in page.tags:
        for key in ("src", "srcset", "href", "action", "data", "poster", "background"):
            if key in attributes:
                allowed = "#" if tag == "a" else "data:"
                assert attributes[key].startswith(allowed), (tag, attributes[key][:60])
        assert not any(key.startswith("on") or key == "style" for key in attributes)
    images = [image["src"] for image in page.attributes("img")]
    images += [source["srcset"] for source in page.attributes("source")]
    assert len(images) > 8 + 8  # four pictures for light and dark pages, and photographs
    for uri in images:
        Image.open(io.BytesIO(b64decode(uri.split(",", 1)[1], validate=True))).load()
    assert all(image["alt"] for image in page.attributes("img"))


def test_the_policy_allows_the_pages_own_style_and_script_alone(plain):
    _, folder, page = plain
    html = (folder / "report.html").read_text(encoding="utf-8")
    policy = next(meta["content"] for meta in page.attributes("meta") if "http-equiv" in meta)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("script", "style"):
        inner = html.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        assert rules[f"{tag}-src"] == f"'sha256-{b64encode(sha256(inner.encode()).digest()).decode()}'"
    for word in ("http:", "https:", "url(", "@import", "fetch(", "XMLHttpRequest"):
        assert word not in html


def test_pictures_lie_beside_the_page_as_png_and_are_the_ones_in_it(plain):
    _, folder, page = plain
    assert sorted(os.listdir(folder)) == ["report.html", *(f"report_{name}.png" for name in PICTURES)]
    inside = {b64decode(image["src"].split(",", 1)[1]) for image in page.attributes("img")}
    for name in PICTURES:
        content = (folder / f"report_{name}.png").read_bytes()
        picture = Image.open(io.BytesIO(content))
        assert picture.format == "PNG"
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20  # something is drawn
        assert content in inside


def test_a_broken_photograph_is_named_and_costs_only_itself(plain):
    _, _, page = plain
    shown = page.text.count("No photograph: image 'image-")
    photos = sum("data:image/jpeg" in image["src"] for image in page.attributes("img"))
    assert shown > 0
    assert photos > 0
    assert shown + photos == page.text.count("found") + sum(
        page.text.count(word) for word in ("missed", "false alarm", "rightly absent")
    )


def test_hostile_names_and_ids_are_text_and_nothing_else(tmp_path):
    table = hostile_table()
    honest = make_table(names=tuple("abcdef"), counts=table.class_counts, name="honest")
    intervals = {table.name: {"map_total": (0, 1), "per_class": {HOSTILE_NAMES[1]: (0, 1)}}}
    both = [
        read_page(
            write_report(
                [one],
                tmp_path / str(number),
                dataset=make_dataset(one, broken=one.image_ids[:1]),
                title=title,
                data_name=title,
                intervals=intervals if number else None,
                intervals_note=title if number else None,
                worst=20,
                progress=False,
            )
        )
        for number, (one, title) in enumerate([(honest, "title"), (table, HOSTILE_NAMES[2])])
    ]
    kinds = [{tag for tag, _ in page.tags} for page in both]
    assert kinds[0] == kinds[1]
    assert len(both[1].scripts) == 1
    assert both[0].scripts == both[1].scripts
    keys = [{key for _, attributes in page.tags for key in attributes} for page in both]
    assert keys[0] == keys[1]
    assert both[1].column("run-1-class-table", "AP").keys() == set(HOSTILE_NAMES)
    assert HOSTILE_ID in both[1].text
    assert HOSTILE_NAMES[2] in both[1].text
    assert "49" not in both[1].column("run-1-class-table", "group")


def test_names_that_have_no_utf8_or_no_shape_are_written_all_the_same(tmp_path):
    table = make_table(names=("a\ud800", "b\x00\n", "\u202egnp.exe", "犬"))
    page = read_page(write_report([table], tmp_path))
    assert "\u202egnp.exe" in page.text
    assert "犬" in page.text
    assert sum(bdi.get("class") == "name" for bdi in page.attributes("bdi")) > 4


@pytest.mark.usefixtures("quick")
def test_several_tables_are_compared_first_and_what_differs_is_said(tmp_path):
    first = make_table()
    second = make_table(name="runs/net0", seed=1)
    third = make_table(name="other", images=30, head_min=50)
    intervals = {"runs/net0": {"map_total": (0.25, 0.75)}}
    page = read_page(write_report([first, second, third], tmp_path, intervals=intervals))
    rows = {row[0][0]: row[1:] for row in page.tables["comparison-table"][1:]}
    assert list(rows) == ["runs/net3", "runs/net0", "other"]
    for table, row in zip((first, second), rows.values(), strict=False):
        expected = expected_figures(table)
        assert [value for _, value in row[:4]] == [
            str(expected[f"map_{k}"]) for k in ("total", "head", "medium", "tail")
        ]
    assert rows["runs/net0"][0][0].endswith("25.0 to 75.0")
    assert rows["other"][-2][0] == "30"
    assert "other was judged with other images and other bounds of the groups than runs/net3." in page.text
    assert "runs/net0 was judged with other" not in page.text
    assert next(iter(page.tables)) == "comparison-table"
    assert len([name for name in os.listdir(tmp_path) if name.endswith(".png")]) == 12


@pytest.mark.usefixtures("quick")
def test_a_new_report_replaces_the_older_one_whole_and_leaves_other_files(tmp_path):
    first, second = make_table(), make_table(name="b")
    write_report([first, second], tmp_path)
    for name in ("results.json", "report_notes.png", "report_2.png"):
        (tmp_path / name).write_text("mine")
    write_report([second], tmp_path)
    kept = {"results.json", "report_notes.png", "report_2.png"}
    assert set(os.listdir(tmp_path)) == {"report.html", *(f"report_{name}.png" for name in PICTURES), *kept}
    assert "runs/net3" not in (tmp_path / "report.html").read_text()


def test_the_same_table_gives_the_same_bytes(plain, tmp_path):
    table, folder, _ = plain
    broken = table.image_ids[:20]
    write_report([table], tmp_path, intervals=INTERVALS, dataset=make_dataset(table, broken), progress=False)
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(folder))
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


@pytest.mark.usefixtures("quick")
def test_a_full_disk_leaves_the_older_report_as_it_was(tmp_path, monkeypatch):
    from pathlib import Path

    from modeling_cssfe.common.files import SavingError

    write_report([make_table()], tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write = Path.write_bytes

    def fail(path, content):
        if path.name == "report.html":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(SavingError, match=r"cannot save the report to .*No space left on device"):
        write_report([make_table(seed=1)], tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("tables", "changes", "message"),
    [
        ([], {}, "pass at least one"),
        (["a", "a"], {}, "two tables are called 'a'"),
        (["a"], {"intervals": {"b": {}}}, "'b', which is no table"),
        (["a"], {"intervals": {"a": {"per_class": {"dgo": (0, 1)}}}}, "'dgo', which is no class"),
        (["a"], {"intervals": {"a": {"map_total": (0.7, 0.2)}}}, "give the lower end first"),
        (["a"], {"worst": 0}, "from 1 to 20"),
        (["a"], {"worst": True}, "from 1 to 20"),
        (["a"], {"dataset": {"train": None}}, "one split with the columns"),
        (["a"], {"dataset": "short"}, "40 of 60 images are not in the data set, first 'image-20'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, tables, changes, message):
    tables = [make_table(name=name) for name in tables]
    if changes.get("dataset") == "short":
        changes = {"dataset": make_dataset(tables[0].select(range(20)))}
    with pytest.raises(ValueError, match=message) as caught:
        write_report(tables, tmp_path / "out", **changes)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file; choose a folder"):
        write_report([make_table()], tmp_path / "file")


def test_one_image_with_every_label_or_with_none_known_gives_a_page(tmp_path):
    tables = [
        ScoreTable(name, ("i",), ("a", "b"), np.array([[0.0, 1.0]]), np.full((1, 2), label, np.float32), (0, 0))
        for name, label in (("present", 1), ("unknown", -1))
    ]
    page = read_page(write_report(tables, tmp_path))
    found = [page.column(f"run-{number}-class-table", "AP")["a"][0] for number in (1, 2)]
    assert found == ["100.0", DASH]


def test_a_page_of_1203_classes_stays_readable(tmp_path):
    names = [f"class {number}" for number in range(1203)]
    table = make_table(names, [2000 // (number + 1) for number in range(1203)], images=40)
    path = write_report([table], tmp_path, dataset=make_dataset(table), progress=False)
    page = read_page(path)
    assert len(page.tables["run-1-class-table"]) == 1204
    assert "30 of 1,203 classes" in page.text
    assert "The 40 of 1,203 classes with the surest confusions are shown." in page.text
    assert "more than 30 classes" in page.text
    assert len(page.attributes("details")) == 30 + 2  # one a class of the gallery, absent classes, every figure
    assert path.stat().st_size < 8e6


class Quadrant(nn.Module):
    """Stands in for the backbone: one feature, 1 in the lower right quarter of a 4 x 4 map and 0 elsewhere."""

    def forward(self, pixel_values):
        maps = torch.zeros(len(pixel_values), 96, 4, 4)
        maps[:, 0, 2:, 2:] = 1
        return maps


@pytest.fixture
def planted():
    names = ["person", "dog", "cow", "horse"]
    config = CSSFEConfig(
        backbone="test_resnet", image_size=64, label_names=names, class_counts=[775, 48, 4, 1], ablation="net0"
    )
    model = CSSFEForImageClassification(config).eval()
    model.cssfe.backbone = Quadrant()
    with torch.no_grad():
        model.cssfe.class_activation.weight.zero_()
        model.cssfe.class_activation.weight[:, 0] = 3.0
        model.cssfe.class_activation.bias.zero_()
    return model, CSSFEImageProcessor.from_model_config(config)


@pytest.mark.usefixtures("quick")
def test_with_a_model_its_map_lies_over_the_photographs_of_the_first_table(tmp_path, planted):
    table, other = make_table(), make_table(name="b", seed=1)
    model, processor = planted
    path = write_report(
        [table, other], tmp_path, dataset=make_dataset(table), model=model, processor=processor, worst=1, progress=False
    )
    page = read_page(path)
    heats = [image for image in page.attributes("img") if image["alt"].startswith("Class activation map")]
    assert len(heats) == 3 * 3 + 1  # each class has a best, a worst and an absent one; horse has no positives
    for image in heats:
        pixels = np.asarray(Image.open(io.BytesIO(b64decode(image["src"].split(",", 1)[1]))).convert("RGB"), float)
        red = pixels[..., 0] - pixels[..., 2]
        assert red[18:, 27:].mean() > 40
        assert abs(red[:8, :12].mean()) < 5
    assert "Class activation maps are shown for the first model alone." in page.text


@pytest.mark.usefixtures("quick")
def test_models_without_maps_or_of_other_classes_are_told_apart(tmp_path, planted):
    table = make_table()
    dataset, (model, processor) = make_dataset(table), planted
    page = read_page(write_report([table], tmp_path, dataset=dataset, model=nn.Linear(1, 1), progress=False))
    assert "Linear has no class activation maps of its own" in page.text
    with pytest.raises(ValueError, match="pass processor too"):
        write_report([table], tmp_path, dataset=dataset, model=model)
    with pytest.raises(ValueError, match="does not know 1 of its classes, first 'bear'"):
        write_report([make_table(names=("person", "dog", "cow", "bear"))], tmp_path, model=model, processor=processor)
