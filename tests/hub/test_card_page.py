"""The example card, and how it looks on a page of a real browser."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from modeling_cssfe.demo.card import render_card
from modeling_cssfe.hub.card_facts import is_sealed
from modeling_cssfe.hub.staging import linked_pictures


EXAMPLE = Path(__file__).parents[2] / "model_cards" / "lt_digits"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from browser import Browser, opened_browser

    with opened_browser(Browser, tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def test_the_example_is_whole_small_and_as_it_was_rendered():
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    assert is_sealed(text)
    pictures = linked_pictures(EXAMPLE / "README.md", EXAMPLE)
    assert len(pictures) == len(re.findall(r"!\[", text)) == 3
    files = [file for file in EXAMPLE.rglob("*") if file.is_file()]
    assert len(files) == 4
    assert all(file.stat().st_size < 300_000 for file in files)
    assert "not recorded" not in text
    assert not re.search(r"(?<![\w.])/(tmp|home|root|work|data|Users)/", text)
    assert {result.dataset_name for result in ModelCard(text).data.eval_results} == {"lt_digits"}


@pytest.mark.parametrize("width", [1000, 420], ids=["desktop", "phone"])
def test_the_example_on_a_page_has_its_pictures_and_tables(browser, tmp_path, width):
    page = tmp_path / "card.html"
    style = "body{margin:8px} img{max-width:100%} .card{overflow-wrap:anywhere} pre{overflow-x:auto}"
    page.write_text(f"<!doctype html><meta charset=utf-8><style>{style}</style>{render_card(EXAMPLE)}")
    browser.driver.set_window_size(width, 900)
    browser.open(page)
    sizes = browser.run("return [...document.images].map(i => [i.naturalWidth, i.naturalHeight])")
    pictures = linked_pictures(EXAMPLE / "README.md", EXAMPLE)
    assert sizes == [list(Image.open(EXAMPLE / picture).size) for picture in pictures]
    heads = browser.run("return [...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert heads[:3] == ["Data", "How good it is", "Thresholds"]
    rows = browser.run("return [...document.querySelectorAll('table')].map(t => t.rows.length)")
    assert rows == [8, 5, 3, 11, 11, 7]  # at a glance, groups and all, splits, classes twice, training
    assert "|" not in browser.run("return document.querySelector('.card').innerText.split('How to use it')[0]")
    assert browser.errors() == []
