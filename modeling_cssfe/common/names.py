# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Names in messages: which are known, which may have been meant, and that they differ."""

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence


def name_some(values: Sequence[str]) -> str:
    """The first five names, and how many more there are, for a message."""
    listed = ", ".join(map(repr, values[:5]))
    return (listed + (f" and {len(values) - 5} more" if len(values) > 5 else "")) or "none"


def suggest(word: str, known: Sequence[str]) -> str:
    """What to choose in the place of an unknown name, and the nearest one."""
    nearest = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"choose one of {', '.join(known)}.{hint}"


def require_distinct(keys: Iterable[str], what: str, where: str) -> None:
    """Check that no key occurs twice.

    Raises:
        ValueError: One does; the message calls it `what` and names the place, `where`.
    """
    repeated = [key for key, number in Counter(keys).items() if number > 1]
    if repeated:
        ids = what == "image id"  # of a patient, perhaps, with several images
        mend = "image ids must differ, so choose another column for them (id_column)" if ids else "keep one of the two"
        raise ValueError(f"{where}: the {what} {repeated[0]!r} occurs twice; {mend}.")


__all__ = ["name_some", "require_distinct", "suggest"]
