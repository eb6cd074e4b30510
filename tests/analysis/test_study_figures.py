# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from planted import planted_model, random_batch

from modeling_cssfe.analysis.figures import draw_study
from modeling_cssfe.analysis.study import compare_networks
from modeling_cssfe.common.figures import figure_style, save_figure


@pytest.fixture(scope="module")
def result():
    generator = torch.Generator().manual_seed(5)
    networks = [planted_model(gains=gains)[0] for gains in ((1.0, 1.0), (1.0, 0.5))]
    for network in networks:
        network.config.id2label = {0: "$red$", 1: "a_{b"}
    return compare_networks(*networks, [random_batch(generator, 6)], resamples=20)


def entry(epoch, **gradients):
    groups = {"head": {"positives": -0.2, "negatives": 0.1, **gradients}, "tail": {"positives": -0.9, "negatives": 0.1}}
    probabilities = {"head": {"positive": 0.8, "negative": 0.1}}
    return {"epoch": epoch, "probabilities": probabilities, "gradients": groups, "gradients_of": "own loss"}


def texts(figure, tmp_path):
    save_figure(figure, tmp_path / "figure.svg")
    comments = [node.text.strip() for node in ElementTree.parse(
        tmp_path / "figure.svg", ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    ).iter() if node.tag is ElementTree.Comment]  # fmt: skip
    return comments


def test_names_of_classes_are_drawn_as_they_are(result, tmp_path):
    with figure_style():
        drawn = draw_study(result, {"balanced": [], "long_tailed": []})
        assert set(drawn) == {"correlation", "attenuation", "drift"}
        for name in ("correlation", "attenuation"):
            assert {"$red$", "a_{b"} <= set(texts(drawn[name], tmp_path))


def test_bars_are_as_high_as_the_figures(result):
    axis = draw_study(result, {})["attenuation"].axes[0]
    heights = [bar.get_height() for bar in axis.patches]
    # Head unchanged, tail halved.
    assert heights == pytest.approx([0, 0.5])


@pytest.mark.parametrize(("recorded", "expected"), [({}, False), ({"push_down": 0.7}, True)])
def test_signs_of_gradients_are_drawn_where_a_run_recorded_them(result, recorded, expected):
    history = {"balanced": [], "long_tailed": [entry(1, **recorded), entry(2, **recorded)]}
    drawn = draw_study(result, history)
    assert {"probabilities", "gradients"} <= set(drawn)
    assert ("gradient_signs" in drawn) == expected
    if expected:
        lines = [line for line in drawn["gradient_signs"].axes[0].lines if line.get_label() == "head"]
        assert [(list(line.get_xdata()), list(line.get_ydata())) for line in lines] == [([1, 2], [0.7, 0.7])]
