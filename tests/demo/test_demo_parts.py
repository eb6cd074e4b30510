"""What the page is made of, without a server: reading, drawing, card, command."""

import base64
import csv
import io
import re
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_runs import make_scene


pytest.importorskip("gradio", reason="the page needs gradio")

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.cli import main
from modeling_cssfe.demo import build_demo
from modeling_cssfe.demo.card import render_card
from modeling_cssfe.demo.classifier import MAX_TOGETHER, Classifier, Reading
from modeling_cssfe.demo.drawing import MAX_ROWS, draw_bars, draw_maps, draw_table, lay_over, write_csv
from modeling_cssfe.explain import LabelMaps, compute_label_maps


HOSTILE = "<img src=x onerror=alert(1)>\"' ${value} {{value}}"


def entry(label, score=0.5, threshold=0.4, group="head"):
    return {
        "label": label,
        "score": score,
        "group": group,
        "threshold": threshold,
        "above_threshold": score >= threshold,
    }


@pytest.fixture(scope="module")
def classifier(tiny_run):
    return Classifier(tiny_run, max_pixels=100_000, max_bytes=200_000)


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(4)
    return [make_scene(rng, names) for names in (["red"], ["green", "blue"], [], ["red", "blue"])]


def test_scores_are_those_of_the_stock_pipeline(tiny_run, classifier, scenes):
    from transformers import pipeline

    model = CSSFEForImageClassification.from_pretrained(tiny_run)
    classify = pipeline("image-classification", model=model, image_processor=classifier.processor)
    for scene in scenes:
        wanted = classify(scene, top_k=3)
        found = classifier.describe(classifier.read(scene))
        assert [one["label"] for one in found] == [one["label"] for one in wanted]
        assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted], abs=1e-6)


def test_thresholds_groups_and_calibrated_probabilities_come_from_the_configuration(tiny_run, tmp_path, scenes):
    model = CSSFEForImageClassification.from_pretrained(tiny_run)
    model.config.thresholds = [0.2, 0.9, 0.4]
    model.config.calibration = {g: {"temperature": 2.0, "bias": -0.5} for g in ("head", "medium", "tail")}
    model.save_pretrained(tmp_path)
    CSSFEImageProcessor.from_pretrained(tiny_run).save_pretrained(tmp_path)
    classifier = Classifier(tmp_path, 100_000, 200_000)
    reading = classifier.read(scenes[0])
    found = {one["label"]: one for one in classifier.describe(reading)}
    limits, groups = {"blue": 0.2, "green": 0.9, "red": 0.4}, {"blue": "tail", "green": "medium", "red": "head"}
    for name, logit in zip(("blue", "green", "red"), reading.logits.double().tolist(), strict=True):
        score = 1 / (1 + np.exp(-logit))
        assert found[name]["above_threshold"] == (score >= limits[name])
        assert found[name]["threshold"] == limits[name]
        assert found[name]["group"] == groups[name]
        assert found[name]["probability"] == pytest.approx(1 / (1 + np.exp(-(logit / 2 - 0.5))), abs=1e-6)


def test_a_confident_logit_is_calibrated_as_it_is_and_not_as_the_1_that_its_score_is(classifier, monkeypatch):
    calibration = {group: {"temperature": 10.0, "bias": -1.0} for group in ("head", "medium", "tail")}
    monkeypatch.setattr(classifier.model.config, "calibration", calibration)
    maps = torch.zeros(3, 2, 2)
    found = classifier.describe(Reading(torch.tensor([18.0, 0.0, -18.0]), maps, maps))
    assert found[0]["score"] == 1
    # 18 / 10 - 1, -1 and -18 / 10 - 1
    expected = [1 / (1 + np.exp(-value)) for value in (0.8, -1.0, -2.8)]
    assert [one["probability"] for one in found] == pytest.approx(expected, abs=1e-6)


def test_maps_are_those_of_compute_label_maps(tiny_run, classifier, scenes):
    model = CSSFEForImageClassification.from_pretrained(tiny_run)
    image = scenes[1].resize((70, 50))
    wanted = compute_label_maps(model, classifier.processor, image, ["green"])[0]
    found = classifier.label_maps(classifier.read(image), classifier.names.index("green"), 70, 50)
    assert found.label == "green"
    assert found.score == pytest.approx(wanted.score, abs=1e-6)
    np.testing.assert_allclose(found.before, wanted.before, atol=1e-5)
    np.testing.assert_allclose(found.after, wanted.after, atol=1e-5)


def test_images_that_wait_share_a_pass_and_each_gets_its_own_answer(classifier, scenes, monkeypatch):
    alone = [classifier.read(scene).logits for scene in scenes]
    sizes, all_wait, forward = [], threading.Event(), classifier.model.forward

    def slow(pixels, **options):
        sizes.append(len(pixels))
        all_wait.wait(0.5)  # in this time the others come
        return forward(pixels, **options)

    monkeypatch.setattr(classifier.model, "forward", slow)
    with ThreadPoolExecutor(20) as pool:
        readings = list(pool.map(lambda number: classifier.read(scenes[number % 4]), range(20)))
    assert sum(sizes) == 20
    assert max(sizes) == MAX_TOGETHER
    assert len(sizes) < 20
    for number, reading in enumerate(readings):
        torch.testing.assert_close(reading.logits, alone[number % 4], atol=1e-5, rtol=1e-5)


def test_a_pass_that_fails_is_told_to_all_in_it_and_the_next_one_works(classifier, scenes, monkeypatch):
    def fail(pixels, **options):
        raise MemoryError("no\nmemory")

    with monkeypatch.context() as broken:
        broken.setattr(classifier.model, "forward", fail)
        with pytest.raises(RuntimeError, match=r"^the model failed: no memory$"):
            classifier.read(scenes[0])
    assert classifier.read(scenes[0]).logits.shape == (3,)


def test_files_that_are_too_large_broken_or_no_image_are_refused_in_one_line(classifier, tmp_path, scenes):
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    scenes[0].save(tmp_path / "whole.png")
    cases = {
        "pixels.png": (Image.new("RGB", (500, 400)), "500 x 400 pixels, more than the limit of 100,000; shrink it."),
        "bytes.png": (Image.fromarray(noise), "bytes, more than the limit of 200,000; shrink it."),
        "truncated.png": ((tmp_path / "whole.png").read_bytes()[:60], "cannot be decoded"),
        "text.png": (b"no image", "not an image in one of the formats"),
        "empty.png": (b"", "0 bytes"),
    }
    for name, (content, message) in cases.items():
        file = tmp_path / name
        file.write_bytes(content) if isinstance(content, bytes) else content.save(file)
        with pytest.raises(ValueError, match=re.escape(message)) as told:
            classifier.decode(file, name)
        assert "\n" not in str(told.value)
        assert name in str(told.value)
        assert str(tmp_path) not in str(told.value)


@pytest.mark.parametrize("error", [KeyError("tag"), struct.error("unpack"), OverflowError("size")])
def test_whatever_pillow_raises_on_a_damaged_file_is_a_refusal(classifier, tmp_path, scenes, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    scenes[0].save(tmp_path / "damaged.png")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ValueError, match=r"^image 'damaged\.png' cannot be decoded"):
        classifier.decode(tmp_path / "damaged.png", "damaged.png")


def test_a_map_is_laid_over_in_the_colours_of_the_drawn_maps():
    from matplotlib import colormaps

    image = Image.new("RGB", (3, 1), (90, 120, 30))
    grey = np.asarray(image.convert("L"))[0, 0]
    found = np.asarray(lay_over(image, np.array([[2.0, -1.0, 0.0]])))[0].astype(float)
    for pixel, share in zip(found, (1.0, -0.5, 0.0), strict=True):
        colour = 255 * np.array(colormaps["RdBu_r"]((share + 1) / 2)[:3])
        np.testing.assert_allclose(pixel, grey * (1 - abs(share) * 0.75) + colour * abs(share) * 0.75, atol=1)


def test_bars_carry_score_threshold_and_group_and_escape_names():
    html = draw_bars([entry("cat", 0.9, 0.25, "tail"), entry(HOSTILE, 0.1, 0.5)], chosen="cat")
    first, second = re.findall(r"<button.*?</button>", html)
    assert 'class="bar tail above"' in first
    assert "width:90.00%" in first
    assert "left:25.00%" in first
    assert 'aria-pressed="true"' in first
    assert 'class="bar head below"' in second
    assert "<img" not in html
    assert unescape(re.search('data-label="([^"]*)"', second)[1]) == HOSTILE


def test_the_search_finds_labels_beyond_the_rows_that_are_shown():
    entries = [entry(f"label {number}", 1 - number / 5000) for number in range(1203)]
    html = draw_bars(entries)
    assert html.count("<button") == MAX_ROWS
    assert f"{1203 - MAX_ROWS:,} more" in html
    assert re.findall('data-label="([^"]*)"', draw_bars(entries, " LABEL 1202 ")) == ["label 1202"]
    assert "No label contains “&lt;b&gt;”" in draw_bars(entries, "<b>")


def test_maps_show_photograph_before_and_after_as_pictures_inside_the_page():
    image = Image.new("RGB", (40, 20), "red")
    values = np.ones((20, 40), dtype=np.float32)
    for after, count in ((values, 3), (None, 2)):
        html = draw_maps(image, LabelMaps(HOSTILE, 0.5, values, after), HOSTILE)
        sources = re.findall(r'<img src="([^"]*)"', html)
        assert len(sources) == html.count("<img") == count
        for source in sources:
            kind, _, content = source.partition(",")
            assert kind == "data:image/jpeg;base64"
            assert Image.open(io.BytesIO(base64.b64decode(content))).size == (40, 20)


def test_the_table_names_what_failed_and_its_csv_holds_every_score():
    rows = [
        ("a.jpg", [entry("cat", 0.9), entry("dog", 0.1)]),
        ("=b.jpg", [entry("dog", 0.30001), entry("cat", 0.2)]),
        (HOSTILE, "broken, sadly"),
    ]
    html = draw_table(rows)
    assert "<img" not in html
    assert "3 files, 1 could not be read" in html
    assert "none; highest: dog 30.0" in html
    link = base64.b64decode(re.search(r"base64,([^\"]*)", html)[1]).decode()
    assert link == write_csv(rows)
    assert list(csv.reader(io.StringIO(link, newline=""))) == [
        ["file", "error", "labels", "cat", "dog"],
        ["a.jpg", "", "cat", "0.900000", "0.100000"],
        ["'=b.jpg", "", "", "0.200000", "0.300010"],
        [HOSTILE, "broken, sadly", "", "", ""],
    ]


CARD = """---
title: hidden
---
# A *model*

| a | b |
|---|---|
| 1 | 2 |

<script>alert(1)</script> <b onclick="x()">bold</b>

[good](https://example.com/?a=1&b=2) [bad](javascript:alert(1)) [file](file:///etc/passwd)
![inside](plots/one%20plot.png) ![outside](https://example.com/pixel.png) ![above](../secret.png)
![data](data:image/svg+xml,x)

- - -
"""


def test_a_card_is_shown_without_its_header_and_can_do_nothing(tmp_path):
    folder = tmp_path / "model"
    (folder / "plots").mkdir(parents=True)
    Image.new("RGB", (2, 2)).save(folder / "plots" / "one plot.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    (folder / "README.md").write_text(CARD)
    html = render_card(folder)
    assert "hidden" not in html
    assert "<h1>A <em>model</em></h1>" in html
    assert "<td>1</td>" in html
    picture = base64.b64encode((folder / "plots" / "one plot.png").read_bytes()).decode()
    assert re.findall(r"<img [^>]*>", html) == [f'<img src="data:image/png;base64,{picture}" alt="inside">']
    assert html.count("picture not shown") == 2  # the data URI is none of Markdown's and stays text
    assert re.findall(r'href="([^"]*)"', html) == ["https://example.com/?a=1&amp;b=2"]
    assert html.count('rel="noopener noreferrer"') == 1
    assert "<script" not in html
    assert "<b " not in html


def test_a_model_without_a_card_says_so(tmp_path):
    assert "has no card" in render_card(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{new}"], "{new}"),
        (["{run}", "--port", "70000"], "--port is 70000"),
        (["{run}", "--queue_size", "0"], "queue_size is 0"),
        (["{run}", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1 ("),  # an address of no machine (RFC 5737)
        (["{run}", "--host", "no host"], "cannot listen on no host ("),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(tiny_run, tmp_path, capsys, arguments, message):
    places = {"run": tiny_run, "new": tmp_path / "nothing"}
    assert main(["demo", *(argument.format(**places) for argument in arguments)]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert message.format(**places) in told[0]


def test_a_port_that_is_taken_is_named_before_the_model_is_loaded(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", str(tmp_path / "no model"), "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1:{port} (" in capsys.readouterr().err


def test_without_gradio_the_command_says_what_to_install(tiny_run, capsys, monkeypatch):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["demo", str(tiny_run)]) == 2
    assert "cssfe[demo]" in capsys.readouterr().err


def test_limits_must_be_positive(tiny_run):
    for limit in ("queue_size", "max_pixels", "max_bytes", "keep_seconds"):
        with pytest.raises(ValueError, match=f"{limit} is 0; give a number >= 1."):
            build_demo(tiny_run, **{limit: 0})


def test_a_login_that_uploads_would_not_ask_for_is_refused(tiny_run):
    with pytest.raises(ValueError, match="behind a proxy"):
        build_demo(tiny_run).launch(auth=("user", "word"))
