"""A real browser for tests of pages, Debian's packages `chromium` and `chromium-driver` driven by Selenium."""

import json
import os
import shutil
from contextlib import contextmanager

import pytest


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
if BROWSER is None or DRIVER is None:
    pytest.skip("no Chromium: install chromium and chromium-driver", allow_module_level=True)
webdriver = pytest.importorskip("selenium.webdriver", reason="no Selenium: install selenium")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait

FLAGS = [
    "--headless",
    "--no-sandbox",  # a container's root has no other way; the pages are the test's own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--proxy-server=127.0.0.1:9",  # nothing listens there: what the page asked of a network would fail and be logged
]


class Browser:
    """Opens a page and knows what went over the wire and what the console said."""

    def __init__(self, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = BROWSER
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        self.driver.set_page_load_timeout(60)

    def open(self, page):
        """A file's path, or an address."""
        self.driver.get_log("performance"), self.driver.get_log("browser")
        self.run("window.isOld = true")
        self.driver.get(page if isinstance(page, str) else page.as_uri())
        # Where the same page was shown before, the driver of a busy machine may return while the new one still loads.
        whole = "return !window.isOld && document.readyState === 'complete'"
        WebDriverWait(self.driver, 60, poll_frequency=0.05).until(lambda driver: driver.execute_script(whole))
        return self

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def requests(self):
        """What was asked for since the last `open`, but for what is inside the page: address -> why it was blocked."""
        found, blocked = {}, {}
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            number = message["params"].get("requestId")
            if message["method"] == "Network.requestWillBeSent":
                found[number] = message["params"]["request"]["url"]
            elif message["method"] == "Network.loadingFailed":
                blocked[number] = message["params"].get("blockedReason")
        return {url: blocked.get(number) for number, url in found.items() if not url.startswith("data:")}

    def errors(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]


@contextmanager
def opened_browser(kind, profile):
    """A `Browser`, or a class that knows more, with an empty profile in a folder."""
    previous = {key: os.environ.get(key) for key in ("NO_PROXY", "no_proxy")}
    os.environ.update(NO_PROXY="127.0.0.1,localhost", no_proxy="127.0.0.1,localhost")  # for the driver's own port
    browser = kind(profile)
    try:
        yield browser
    finally:
        browser.driver.quit()
        for key, value in previous.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
