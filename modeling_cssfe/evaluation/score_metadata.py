# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What Parquet files of scores know besides them: training images of each class, bounds of the groups, thresholds."""

import json
from collections.abc import Sequence
from typing import Any


METADATA_KEY = b"cssfe"


def score_metadata(
    label_names: Sequence[str],
    class_counts: Sequence[int] | None,
    head_min: int | None,
    tail_max: int | None,
    thresholds: Sequence[float] | None,
) -> dict[bytes, bytes]:
    """Metadata of an Arrow schema; what is None is left out."""
    extras: dict[str, Any] = {}
    if class_counts is not None:
        extras["class_counts"] = dict(zip(label_names, map(int, class_counts), strict=True))
    for key, bound in (("head_min", head_min), ("tail_max", tail_max)):
        if bound is not None:
            extras[key] = int(bound)
    if thresholds is not None:
        extras["thresholds"] = dict(zip(label_names, map(float, thresholds), strict=True))
    return {METADATA_KEY: json.dumps(extras).encode()}


__all__ = ["METADATA_KEY", "score_metadata"]
