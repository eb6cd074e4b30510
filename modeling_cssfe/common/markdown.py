# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Markdown of cards: text without markup of its own, tables, numbers."""

import re
from collections.abc import Sequence
from typing import Any


def escape_markdown(text: str) -> str:
    """Text in one line, in which Markdown, HTML and tables find no markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(str(text).split()))


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], numbers_from: int | None = None) -> str:
    """A table of cells that are Markdown; columns from `numbers_from` on are aligned to the right."""
    right = len(heads) if numbers_from is None else numbers_from
    lines = [heads, ["---" if column < right else "---:" for column in range(len(heads))], *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def percent(value: float | None, interval: tuple[float, float] | None = None) -> str:
    """A fraction in percent, with its interval if it has one; a dash for none."""
    if value is None:
        return "-"
    ends = "" if interval is None else f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
    return f"{100 * value:.1f}{ends}"


def probability(value: float) -> str:
    """A probability with three digits, and with more where these would say 0 or 1."""
    # As 1.000 a threshold would seem to let nothing through.
    return f"{value:.6f}" if 0 < value < 0.001 or 0.9995 <= value < 1 else f"{value:.3f}"


def duration(seconds: float) -> str:
    """Seconds in the unit that a reader would choose."""
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


__all__ = ["duration", "escape_markdown", "markdown_table", "percent", "probability"]
