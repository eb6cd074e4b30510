"""The page in a real browser: drop, look, click, search, save. Chromium takes seconds to start and to load gradio."""

import base64
import csv
import io
import time

import numpy as np
import pytest
from PIL import Image
from tiny_runs import make_scene


pytest.importorskip("gradio", reason="the page needs gradio")

from browser import Browser, opened_browser
from demo_pages import files_below, launched

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.explain import compute_label_maps


NAMES = ["blue <b>sky</b>", "green ${value} {{value}}", "red"]


class PageBrowser(Browser):
    """Knows the parts of the page."""

    def wait(self, script, seconds=60):
        """Until JavaScript is true; returns its value."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := self.run(f"return {script}"):
                return found
            time.sleep(0.1)
        raise TimeoutError(script)

    def visit(self, page, query=""):
        self.open(f"{page.address}/{query}")
        self.wait("document.querySelector('#bars') && document.querySelector('input[type=file]')")

    def drop(self, *files, many=False):
        script = "[...document.querySelectorAll('input[type=file]')].find((one) => one.multiple === arguments[0])"
        self.run(f"return {script}", many).send_keys("\n".join(map(str, files)))

    def tab(self, name):
        tabs = self.driver.find_elements("css selector", "button[role=tab]")
        next(tab for tab in tabs if tab.text.strip() == name).click()

    def labels(self):
        return self.run("return [...document.querySelectorAll('#bars .bar')].map((bar) => bar.dataset.label)")

    def pictures(self):
        """The pictures of the maps, as arrays."""
        sources = self.run("return [...document.querySelectorAll('#maps img')].map((one) => one.src)")
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(one.partition(",")[2])))) for one in sources]

    def outside(self, page):
        """What was asked of other machines."""
        return [url for url in self.requests() if not url.startswith((page.address, "blob:"))]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened_browser(PageBrowser, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def model_folder(tiny_run, tmp_path_factory):
    """The tiny model with thresholds, hostile names and a card."""
    folder = tmp_path_factory.mktemp("shown")
    model = CSSFEForImageClassification.from_pretrained(tiny_run)
    model.config.id2label = dict(enumerate(NAMES))
    model.config.label2id = {name: number for number, name in enumerate(NAMES)}
    model.config.thresholds = [0.0, 1.0, 0.5]
    model.save_pretrained(folder)
    CSSFEImageProcessor.from_pretrained(tiny_run).save_pretrained(folder)
    (folder / "README.md").write_text(
        "# The card\n\n![](https://example.com/pixel.png)\n<script>window.hacked = 1</script>\n"
    )
    return folder


@pytest.fixture(scope="module")
def temporary(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def page(model_folder, temporary):
    with launched(model_folder, max_pixels=100_000, max_bytes=200_000) as page:
        yield page


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(6)
    for name, squares in {"first.png": ["red"], "second.png": ["green", "blue"]}.items():
        make_scene(rng, squares).save(folder / name)
    Image.new("RGB", (500, 400)).save(folder / "huge.png")
    (folder / "broken.png").write_bytes((folder / "first.png").read_bytes()[:80])
    return folder


def test_a_photograph_is_dropped_its_bars_appear_and_a_click_shows_the_maps_of_a_label(
    browser, page, model_folder, photos, temporary
):
    browser.visit(page)
    browser.drop(photos / "first.png")
    browser.wait("document.querySelectorAll('#bars .bar').length === 3")
    assert sorted(browser.labels()) == NAMES
    pressed = "[...document.querySelectorAll('#bars [aria-pressed=true]')].map((bar) => bar.dataset.label)"
    assert browser.run(f"return {pressed}") == browser.labels()[:1]
    model = CSSFEForImageClassification.from_pretrained(model_folder)
    processor = CSSFEImageProcessor.from_pretrained(model_folder)
    photo = Image.open(photos / "first.png").convert("RGB")
    seen = []
    for number in (2, 1, 0):
        label = browser.labels()[number]
        browser.run("document.querySelectorAll('#bars .bar')[arguments[0]].click()", number)
        browser.wait(f"document.querySelector('#maps h3').textContent.includes({label!r})")
        assert browser.run(f"return {pressed}") == [label]
        shown, before, after = browser.pictures()
        assert np.abs(shown.astype(int) - np.asarray(photo)).mean() < 12  # JPEG of noise
        wanted = compute_label_maps(model, processor, photo, [label])[0]
        for picture, values in ((before, wanted.before), (after, wanted.after)):
            # Red outweighs blue where the map is positive, and the other way round: the photograph below is grey.
            tint = picture[..., 0].astype(int) - picture[..., 2]
            strong = np.abs(values) > np.abs(values).max() / 2
            assert (np.sign(tint[strong]) == np.sign(values[strong])).mean() > 0.9
        seen.append(before)
    assert not np.array_equal(seen[0], seen[1])
    assert browser.run("return document.querySelectorAll('#bars b, #maps b').length") == 0
    assert browser.outside(page) == []
    assert files_below(temporary) == []


def test_bars_show_scores_thresholds_and_groups(browser, page, photos):
    browser.visit(page)
    browser.drop(photos / "second.png")
    browser.wait("document.querySelectorAll('#bars .bar').length === 3")
    rows = browser.run(
        """return [...document.querySelectorAll('#bars .bar')].map((bar) => {
        const box = (name) => bar.querySelector(name).getBoundingClientRect();
        const track = box('.track');
        return [bar.dataset.label, parseFloat(bar.querySelector('.score').textContent),
          100 * box('.fill').width / track.width,
          100 * (box('.mark').left + 1.5 - track.left) / track.width, bar.querySelector('.group').textContent,
          getComputedStyle(bar.querySelector('.fill')).backgroundColor]})"""
    )
    limits, groups = (
        dict(zip(NAMES, (0, 100, 50), strict=True)),
        dict(zip(NAMES, ("tail", "medium", "head"), strict=True)),
    )
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    for label, score, width, mark, group, _ in rows:
        assert width == pytest.approx(score, abs=1)
        assert mark == pytest.approx(limits[label], abs=1.5)
        assert group == groups[label]
    assert len({row[5] for row in rows}) == 3


def test_the_search_finds_labels_and_a_new_photograph_clears_it(browser, page, photos):
    browser.visit(page)
    browser.drop(photos / "second.png")
    browser.wait("document.querySelectorAll('#bars .bar').length === 3")
    field = browser.driver.find_element("css selector", "#search textarea, #search input")
    field.send_keys("GREEN")
    browser.wait("document.querySelectorAll('#bars .bar').length === 1")
    assert browser.labels() == [NAMES[1]]
    field.send_keys("<i>")
    browser.wait("document.querySelector('#bars').textContent.includes('No label contains')")
    assert "GREEN<i>" in browser.run("return document.querySelector('#bars').textContent")
    browser.drop(photos / "first.png")
    browser.wait("document.querySelectorAll('#bars .bar').length === 3")
    assert field.get_attribute("value") == ""


@pytest.mark.parametrize(("name", "message"), [("huge.png", "500 x 400 pixels"), ("broken.png", "cannot be decoded")])
def test_a_photograph_that_is_too_large_or_broken_is_refused_and_the_next_one_works(
    browser, page, photos, temporary, name, message
):
    browser.visit(page)
    browser.drop(photos / name)
    told = browser.wait("document.querySelector('.toast-body')?.textContent")
    assert message in told
    assert "Traceback" not in told
    browser.wait("document.querySelector('input[type=file]')")  # the zone is empty again
    browser.drop(photos / "first.png")
    browser.wait("document.querySelectorAll('#bars .bar').length === 3")
    assert files_below(temporary) == []


def test_many_photographs_become_a_table_that_can_be_saved(browser, page, photos, temporary):
    browser.visit(page)
    browser.tab("Many photographs")
    browser.wait("[...document.querySelectorAll('input[type=file]')].some((one) => one.multiple)")
    browser.drop(photos / "first.png", photos / "broken.png", photos / "second.png", many=True)
    browser.wait("document.querySelectorAll('#table tbody tr').length === 3")
    link = browser.run("return document.querySelector('#table a[download]').href")
    rows = list(csv.DictReader(io.StringIO(base64.b64decode(link.partition("base64,")[2]).decode(), newline="")))
    assert [row["file"] for row in rows] == ["first.png", "broken.png", "second.png"]
    assert [bool(row["error"]) for row in rows] == [False, True, False]
    assert NAMES[0] in rows[0]["labels"]  # its threshold is 0
    assert browser.outside(page) == []
    assert files_below(temporary) == []


def test_the_card_is_on_a_tab_and_loads_nothing(browser, page):
    browser.visit(page)
    browser.tab("Model card")
    browser.wait(
        "[...document.querySelectorAll('h1')].some((one) => one.textContent === 'The card' && one.offsetHeight > 0)"
    )
    assert browser.run("return document.querySelectorAll('article.card img, article.card script').length") == 0
    assert browser.run("return window.hacked") is None
    assert browser.outside(page) == []


@pytest.mark.parametrize(("width", "theme"), [(390, "dark"), (1280, "light")])
def test_nothing_reaches_beyond_a_phone_or_a_screen(browser, page, photos, width, theme):
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.visit(page, f"?__theme={theme}")
    browser.drop(photos / "first.png")
    browser.wait("document.querySelectorAll('#bars .bar').length === 3")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    tracks = browser.run("return [...document.querySelectorAll('.track')].map((one) => one.offsetWidth)")
    assert min(tracks) >= 60
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
