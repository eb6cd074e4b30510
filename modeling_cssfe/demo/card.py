# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The model card as HTML that can do nothing: no markup of its own, no scripts, no pictures from elsewhere."""

import base64
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote


_HEADER = re.compile(r"\A---\s*\n.*?\n---\s*\n", re.DOTALL)  # metadata for the Hub
PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif"}
_MAX_PICTURE_BYTES = 5_000_000


def render_card(folder: str | os.PathLike) -> str:
    """`README.md` of a model's folder as HTML.

    HTML in the card is shown as text, links open in another tab, pictures that lie in the folder are put into the
    page, and others are not shown: the page asks nothing of other machines.

    Args:
        folder: The model's folder.

    Returns:
        HTML, also where there is no card: it then says so.
    """
    from markdown_it import MarkdownIt

    file = Path(folder) / "README.md"
    if not file.is_file():
        return '<p class="note">This model has no card (README.md).</p>'
    text = _HEADER.sub("", file.read_text(encoding="utf-8", errors="replace"), count=1)
    markdown: Any = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])

    def image(tokens: Sequence, index: int, options, env) -> str:
        source, alt = str(tokens[index].attrGet("src") or ""), escape(tokens[index].content)
        uri = _picture(Path(folder), unquote(source))
        return f'<img src="{uri}" alt="{alt}">' if uri else f"<em>[picture not shown: {alt or escape(source)}]</em>"

    def link_open(tokens: Sequence, index: int, options, env) -> str:
        return f'<a href="{escape(str(tokens[index].attrGet("href")))}" target="_blank" rel="noopener noreferrer">'

    markdown.renderer.rules.update(image=image, link_open=link_open)
    return f'<article class="card">{markdown.render(text)}</article>'


def _picture(folder: Path, source: str) -> str | None:
    """A picture inside the folder as a data URI."""
    kind = PICTURES.get(Path(source).suffix.lower())
    if kind is None or "://" in source:
        return None
    # By its name: in the Hub's cache a file of the folder is a link to one elsewhere.
    file = Path(os.path.abspath(folder / source))
    if (
        not file.is_relative_to(os.path.abspath(folder))
        or not file.is_file()
        or file.stat().st_size > _MAX_PICTURE_BYTES
    ):
        return None
    return f"data:image/{kind};base64,{base64.b64encode(file.read_bytes()).decode('ascii')}"


__all__ = ["PICTURES", "render_card"]
