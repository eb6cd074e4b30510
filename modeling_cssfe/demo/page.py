# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`build_demo`: the page, its parts and what happens on it.

The page loads nothing from other machines and keeps nothing: an uploaded file is deleted when it was classified, what a
browser shows is inside the page, and what the maps need stays in memory for `KEEP_SECONDS` after its last use.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from ..configuration_cssfe import GROUPS
from .card import PICTURES, render_card
from .classifier import MAX_TOGETHER, Classifier, Reading
from .drawing import draw_bars, draw_maps, draw_table, shrink
from .uploads import PageMiddleware, Uploads


QUEUE_SIZE = 32
MAX_PIXELS = 40_000_000
MAX_BYTES = 20_000_000
MAX_FILES = 64  # of one batch
KEEP_SECONDS = 600.0
_MAX_SESSIONS = 200  # users whose photograph is remembered for further clicks
_FORGOTTEN = '<p class="note">The photograph is not kept any longer; drop it again.</p>'
_EMPTY = '<p class="note">Drop a photograph to see its labels.</p>'
_ON_CLICK = """
element.addEventListener("click", (event) => {
  const bar = event.target.closest("[data-label]");
  if (!bar) return;
  element.querySelectorAll("[data-label]").forEach((other) => other.setAttribute("aria-pressed", other === bar));
  trigger("select", {index: 0, value: bar.dataset.label});
});
"""


@dataclass(eq=False)
class _Shown:
    """What one user looks at."""

    image: Image.Image
    name: str
    reading: Reading
    entries: list[dict[str, Any]] = field(repr=False)
    chosen: str


def build_demo(
    model_dir: str | os.PathLike,
    *,
    queue_size: int = QUEUE_SIZE,
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    keep_seconds: float = KEEP_SECONDS,
) -> gr.Blocks:
    """The page of a model; `.launch()` starts it, with the look and the limits given here.

    Requests wait in a queue. The model runs one forward pass at a time, which takes up to `MAX_TOGETHER` waiting images
    along. A request that finds `queue_size` others waiting is refused with a reason.

    Programs ask with `gradio_client.Client(url).predict(handle_file("photograph.jpg"), api_name="/classify")` and get
    what `Classifier.describe` returns.

    Args:
        model_dir: Folder that `cssfe train` wrote, or a Hub repository.
        queue_size: Requests that may wait, >= 1.
        max_pixels: Largest width x height of an image; more is refused before it is decompressed.
        max_bytes: Largest file.
        keep_seconds: How long, in seconds, an upload that nobody asks about and a photograph that nobody clicks on are
            kept.

    Returns:
        A `gradio.Blocks`. It has no login of its own.

    Raises:
        ValueError: There is no CSSFE model, or a limit is not positive.
    """
    for name, value in (("queue_size", queue_size), ("keep_seconds", keep_seconds)):
        if value < 1:
            raise ValueError(f"{name} is {value!r}; give a number >= 1.")
    classifier = Classifier(model_dir, max_pixels, max_bytes)
    _warm_up(classifier)
    uploads = Uploads(max_bytes, keep_seconds)
    actions = _Actions(classifier, uploads)
    name = Path(model_dir).resolve().name
    with gr.Blocks(title=f"CSSFE: {name}", analytics_enabled=False, fill_width=True) as page:
        gr.HTML(_head(name, classifier), js_on_load=None)
        with gr.Tab("Photograph"):
            _add_photograph(actions)
        with gr.Tab("Many photographs"):
            _add_many(actions)
        with gr.Tab("Model card"):
            gr.HTML(render_card(_folder_of_card(model_dir)), elem_classes="cssfe", js_on_load=None)
        _add_api(actions)
    page.queue(max_size=queue_size, default_concurrency_limit=1)
    # After each request gradio would summarise its last 10,000, for a dashboard that this page does not have.
    page._queue.ANALYTICS_MAX_EVENTS, page._queue.ANAYLTICS_CACHE_FREQUENCY = 1, sys.maxsize
    _set_launch(page, uploads)
    return page


def _folder_of_card(model_dir: str | os.PathLike) -> Path:
    if Path(model_dir).is_dir():
        return Path(model_dir)
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(os.fspath(model_dir), allow_patterns=["README.md", *(f"*{kind}" for kind in PICTURES)])
    )


def _warm_up(classifier: Classifier) -> None:
    """What the first user would otherwise wait for; a model that cannot run fails here."""
    import matplotlib.pyplot  # noqa: F401 - gradio sets its backend around each call

    classifier.read(Image.new("RGB", (8, 8)))


class _Actions:
    """What happens on the page."""

    def __init__(self, classifier: Classifier, uploads: Uploads):
        self.classifier, self.uploads = classifier, uploads

    def classify(self, upload: dict[str, Any] | None) -> list[dict[str, Any]]:
        with self._opened(upload) as (image, _):
            return self.classifier.describe(self.classifier.read(image))

    def show(self, upload: dict[str, Any] | None) -> tuple[_Shown, str, str, str, None]:
        with self._opened(upload) as (image, name):
            reading = self.classifier.read(image)
            entries = self.classifier.describe(reading)
            shown = _Shown(shrink(image), name, reading, entries, entries[0]["label"])
        return shown, "", draw_bars(entries, chosen=shown.chosen), self._maps(shown), None

    def search(self, shown: _Shown | None, text: str) -> str:
        return _EMPTY if shown is None else draw_bars(shown.entries, text, shown.chosen)

    def choose(self, shown: _Shown | None, event: gr.EventData) -> tuple[_Shown | None, str]:
        label = event._data.get("value")
        if shown is None:
            return None, _FORGOTTEN
        if label not in self.classifier.names:
            raise _refusal(f"there is no label {label!r}; click one of the bars.")
        shown.chosen = label
        return shown, self._maps(shown)

    def classify_many(self, dropped: list[dict[str, Any]] | None, progress: gr.Progress | None) -> tuple[str, None]:
        dropped = dropped or []
        if len(dropped) > MAX_FILES:
            for upload in dropped:
                self.uploads.forget(self.uploads.locate(upload["path"]))
            raise _refusal(f"these are {len(dropped)} files; drop at most {MAX_FILES} at a time.")
        rows: list[tuple[str, list[dict[str, Any]] | str]] = []
        for number, upload in enumerate(dropped):
            if progress is not None:
                progress((number, len(dropped)), unit="photographs")
            try:
                rows.append((_name_of(upload), self.classify(upload)))
            except gr.Error as error:
                rows.append((_name_of(upload), error.message))
        return draw_table(rows), None

    def _maps(self, shown: _Shown) -> str:
        index = self.classifier.names.index(shown.chosen)
        return draw_maps(shown.image, self.classifier.label_maps(shown.reading, index, *shown.image.size), shown.name)

    @contextmanager
    def _opened(self, upload: dict[str, Any] | None) -> Iterator[tuple[Image.Image, str]]:
        """An uploaded image, whose file is deleted as soon as it is decoded."""
        if upload is None:
            raise _refusal("there is no file; drop a photograph.")
        name = _name_of(upload)
        file = self.uploads.locate(upload["path"])
        try:
            image = self.classifier.decode(file, name)
        except ValueError as error:
            raise _refusal(str(error)) from None
        finally:
            self.uploads.forget(file)
        yield image, name


def _name_of(upload: dict[str, Any]) -> str:
    return Path(upload.get("orig_name") or upload["path"]).name


def _refusal(message: str) -> gr.Error:
    # The browser shows the text as HTML, and it may hold a stranger's file name.
    return gr.Error(escape(message, quote=False), title="Refused", print_exception=False)


def _add_photograph(actions: _Actions) -> None:
    shown = gr.State(None)
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            dropped = _drop_zone(actions, "Photograph", "single")
            maps = gr.HTML(_EMPTY, elem_classes="cssfe", elem_id="maps", js_on_load=None)
        with gr.Column(scale=3, min_width=320):
            text = gr.Textbox(label="Search labels", placeholder="part of a name", elem_id="search", max_lines=1)
            bars = gr.HTML("", elem_classes="cssfe", elem_id="bars", js_on_load=_ON_CLICK)
    told = dropped.upload(
        actions.show, dropped, [shown, text, bars, maps, dropped], preprocess=False, api_visibility="private",
        show_progress_on=[dropped], **_QUEUED,
    )  # fmt: skip
    _empty_after_failure(told, dropped)
    text.input(
        actions.search, [shown, text], bars, queue=False, show_progress="hidden", trigger_mode="always_last",
        api_visibility="private",
    )  # fmt: skip
    bars.select(
        actions.choose, [shown], [shown, maps], queue=False, show_progress="hidden", trigger_mode="always_last",
        api_visibility="private",
    )  # fmt: skip


def _add_many(actions: _Actions) -> None:
    dropped = _drop_zone(actions, f"Photographs, up to {MAX_FILES}", "multiple")
    table = gr.HTML(
        '<p class="note">Drop photographs to get a table of their labels.</p>', elem_classes="cssfe", elem_id="table",
        js_on_load=None,
    )  # fmt: skip

    # Gradio finds its progress bar by this default.
    def classify_many(uploads, progress=gr.Progress()):  # noqa: B008
        return actions.classify_many(uploads, progress)

    told = dropped.upload(
        classify_many, dropped, [table, dropped], preprocess=False, api_visibility="private", show_progress_on=[table],
        **_QUEUED,
    )  # fmt: skip
    _empty_after_failure(told, dropped)


def _empty_after_failure(event: Any, dropped: gr.File) -> None:
    # The name of a refused file would link to nothing.
    event.failure(lambda: None, None, dropped, queue=False, show_progress="hidden", api_visibility="private")


def _add_api(actions: _Actions) -> None:
    """The function that programs call; its parts are on the page, unseen."""
    photograph = _drop_zone(actions, "photograph", "single", visible=False)
    labels = gr.JSON(visible=False, label="labels")
    gr.Button(visible=False).click(
        actions.classify, photograph, labels, preprocess=False, api_name="classify", trigger_mode="multiple", **_QUEUED
    )


# All of them ask the model and so share one limit: as many as one forward pass takes, so that none runs alone while
# others wait.
_QUEUED: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": MAX_TOGETHER}


def _drop_zone(actions: _Actions, label: str, count: Any, visible: bool = True) -> gr.File:
    zone: Any = gr.File(
        label=label, file_count=count, file_types=["image"], height=150, visible=visible, elem_classes="drop"
    )
    # Gradio's own way would copy the file and open addresses.
    zone.async_move_resource_to_block_cache = actions.uploads.accept
    return zone


def _head(name: str, classifier: Classifier) -> str:
    config = classifier.model.config
    groups = [f"{classifier.groups.count(group)} {group}" for group in GROUPS if group in classifier.groups]
    height, width = config.image_height_and_width
    facts = f"{len(classifier.names):,} labels: {', '.join(groups)} · {config.backbone} · {height} x {width} px"
    return (
        f'<header class="cssfe"><h1>{escape(name)}</h1><p class="note">{escape(facts)}. '
        "Nothing that you upload is kept.</p></header>"
    )


def _set_launch(page: Any, uploads: Uploads) -> None:
    """Give `page.launch` the look and the limits of the page; gradio takes them only there."""
    launch = page.launch
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}

    def launch_page(**options: Any):
        if options.get("auth") or options.get("auth_dependency"):
            raise ValueError("this page takes uploads without a login; put it behind a proxy that asks for one.")
        settings = {
            "theme": gr.themes.Base(primary_hue="blue", neutral_hue="slate", **fonts),
            "css": files(__package__).joinpath("page.css").read_text(encoding="utf-8"),
            "max_file_size": uploads.max_bytes,
            "app_kwargs": {
                "middleware": [Middleware(PageMiddleware, uploads=uploads)],
                "lifespan": uploads.lifespan,
            },
            "state_session_capacity": _MAX_SESSIONS,
            "footer_links": ["api"],
            "run_history": False,
            "ssr_mode": False,
            "pwa": False,
            "share": False,
            "enable_monitoring": False,
        }
        return launch(**(settings | options))

    page.launch = launch_page


__all__ = ["KEEP_SECONDS", "MAX_BYTES", "MAX_FILES", "MAX_PIXELS", "QUEUE_SIZE", "build_demo"]
