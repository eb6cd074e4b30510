# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The page in a real browser."""

import re

import pytest
from browser import Browser, opened_browser
from report_cases import HOSTILE_NAMES, hostile_table, make_dataset, make_table

from modeling_cssfe.report import write_report


class ReportBrowser(Browser):
    """Knows the tables of a report."""

    def heading(self, table, text):
        return self.run(
            "return [...document.querySelectorAll(`#${arguments[0]} thead button`)]"
            ".find((button) => button.textContent === arguments[1])",
            table,
            text,
        )

    def values(self, table, text):
        """Column of a table from top to bottom: shown text, and the state of its heading."""
        return self.run(
            """const table = document.getElementById(arguments[0]);
            const heads = [...table.tHead.rows[0].cells];
            const column = heads.findIndex((head) => head.textContent.trim() === arguments[1]);
            return [[...table.tBodies[0].rows].map((row) => row.cells[column].textContent.trim()),
                    heads[column].getAttribute("aria-sort"),
                    heads.filter((head) => head.getAttribute("aria-sort") !== "none").length]""",
            table,
            text,
        )


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with opened_browser(ReportBrowser, tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of two tables."""
    first, second = make_table(), make_table(name="runs/net0", seed=1)
    intervals = {"runs/net3": {"map_total": (0.4, 0.6), "per_class": {"dog": (0.2, 0.9), "cow": (0.1, 0.3)}}}
    folder = tmp_path_factory.mktemp("report")
    return write_report([first, second], folder, intervals=intervals, dataset=make_dataset(first), progress=False)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    table = hostile_table()
    folder = tmp_path_factory.mktemp("hostile")
    return write_report(
        [table], folder, dataset=make_dataset(table, broken=table.image_ids[:1]), worst=20, progress=False
    )


def test_the_page_opens_without_an_error_and_asks_nothing_of_a_network(browser, report):
    browser.open(report)
    assert browser.run("return document.readyState") == "complete"
    assert browser.requests() == {report.as_uri(): None}
    assert browser.errors() == []
    assert browser.run("return getComputedStyle(document.querySelector('.cards')).display") == "grid"


def test_a_page_that_asks_a_network_for_something_is_found_out(browser, tmp_path):
    page = tmp_path / "leak.html"
    page.write_text('<link rel="icon" href="data:,"><img src="http://example.invalid/pixel.png">')
    browser.open(page)
    assert browser.requests() == {page.as_uri(): None, "http://example.invalid/pixel.png": None}
    assert any("ERR_PROXY_CONNECTION_FAILED" in error for error in browser.errors())


def test_the_policy_stops_what_is_put_into_the_page_later(browser, report):
    browser.open(report)
    stopped = browser.driver.execute_async_script(
        """const done = arguments[0], stopped = [];
        document.addEventListener("securitypolicyviolation", (event) => {
          stopped.push(event.effectiveDirective);
          if (stopped.length === 3) done(stopped.sort());
        });
        const image = new Image(); image.src = "http://example.invalid/a.png"; document.body.append(image);
        const script = document.createElement("script"); script.textContent = "window.hacked = 1";
        document.body.append(script);
        const link = document.createElement("link"); link.rel = "stylesheet"; link.href = "http://example.invalid/a.css";
        document.head.append(link);"""
    )
    assert stopped == ["img-src", "script-src-elem", "style-src-elem"]
    outside = {url: reason for url, reason in browser.requests().items() if url != report.as_uri()}
    assert outside == {f"http://example.invalid/{name}": "csp" for name in ("a.png", "a.css")}
    assert browser.run("return window.hacked") is None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_image_is_shown(browser, report, scheme):
    browser.driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.open(report)
    sizes = browser.run(
        "return [...document.images]"
        ".map((image) => [image.complete, image.naturalWidth, image.naturalHeight, image.currentSrc.slice(0, 5)])"
    )
    assert len(sizes) > 8
    assert all(complete and width > 0 and height > 0 and source == "data:" for complete, width, height, source in sizes)
    background = browser.run("return getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(int, re.findall(r"\d+", background)))
    assert (brightness < 200) == (scheme == "dark")
    corner = browser.run(
        """const picture = document.querySelector("picture img"), canvas = document.createElement("canvas");
        canvas.getContext("2d").drawImage(picture, 0, 0);
        return [...canvas.getContext("2d").getImageData(2, 2, 1, 1).data].slice(0, 3)"""
    )
    assert (sum(corner) < 200) == (scheme == "dark")  # the pictures follow the page


def test_a_click_on_a_heading_sorts_both_ways(browser, report):
    browser.open(report)
    table, dash = "run-1-class-table", "\N{EN DASH}"
    keys = {
        "class": str,
        "group": ["head", "medium", "tail"].index,
        "interval": lambda text: float(text.split(" to ")[0]),
        **dict.fromkeys(["training images", "positives", "AP", "AUROC", "F1", "ECE", "threshold"], float),
    }
    for heading, key in keys.items():
        before, state, _ = browser.values(table, heading)
        assert state == "none"
        for direction in ("ascending", "descending", "ascending"):
            browser.heading(table, heading).click()
            after, state, sorted_columns = browser.values(table, heading)
            assert (state, sorted_columns) == (direction, 1)
            figures = [text for text in after if text != dash]
            assert figures == sorted(figures, key=key, reverse=direction == "descending")
            assert after == figures + [dash] * (len(after) - len(figures))  # dashes stay last
            assert sorted(after) == sorted(before)
            status = browser.run("return document.getElementById('sort-status').textContent")
            assert status == f"Sorted by {heading}, {direction}."
    assert browser.errors() == []


def test_rows_stay_together_and_other_tables_stay_as_they_are(browser, report):
    browser.open(report)
    rows = "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map((row) => row.textContent)"
    before, other = browser.run(rows, "#run-1-class-table"), browser.run(rows, "#run-2-class-table")
    browser.heading("run-1-class-table", "AP").click()
    after = browser.run(rows, "#run-1-class-table")
    assert after != before
    assert sorted(after) == sorted(before)
    assert browser.run(rows, "#run-2-class-table") == other


def test_the_keyboard_alone_reaches_a_heading_and_sorts(browser, report):
    from selenium.webdriver.common.keys import Keys

    browser.open(report)
    page = browser.driver.find_element("tag name", "body")
    for _ in range(40):
        page.send_keys(Keys.TAB)
        if browser.run("return document.activeElement.closest('#comparison-table thead') !== null"):
            break
    assert browser.run("return document.activeElement.textContent") == "model"
    for key, direction, names in (
        (Keys.ENTER, "ascending", ["runs/net0", "runs/net3"]),
        (Keys.SPACE, "descending", ["runs/net3", "runs/net0"]),
    ):
        browser.driver.switch_to.active_element.send_keys(key)
        assert browser.values("comparison-table", "model")[:2] == [names, direction]


@pytest.mark.parametrize("policy", [True, False])
def test_hostile_names_show_as_text_and_run_nothing_even_without_the_policy(browser, hostile, tmp_path, policy):
    path = hostile
    if not policy:
        path = tmp_path / "report.html"
        html = hostile.read_text(encoding="utf-8")
        path.write_text(re.sub("<meta http-equiv[^>]*>", "", html), encoding="utf-8")
    browser.open(path)
    for heading in ("class", "AP"):
        browser.heading("run-1-class-table", heading).click()
    shown = browser.run(
        "return [...document.querySelectorAll('#run-1-class-table tbody th .name')].map((name) => name.textContent)"
    )
    assert sorted(shown) == sorted(HOSTILE_NAMES)
    assert browser.run("return window.hacked") is None
    assert browser.run("return document.scripts.length") == 1
    assert (
        browser.run("return document.querySelectorAll('[onerror], [onclick], [onload], img[src=x], svg').length") == 0
    )
    assert browser.errors() == []
    assert browser.requests() == {path.as_uri(): None}


@pytest.mark.parametrize(("width", "medium"), [(360, "screen"), (1280, "screen"), (700, "print")])
def test_nothing_reaches_beyond_a_phone_a_screen_or_a_sheet_of_paper(browser, report, hostile, width, medium):
    browser.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium})
    for path in (report, hostile):
        browser.open(path)
        assert browser.run("return innerWidth") == width
        assert browser.run("return document.documentElement.scrollWidth") <= width
    browser.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
