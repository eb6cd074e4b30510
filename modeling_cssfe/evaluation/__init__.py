# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Judging scores: uncertainty, comparisons, thresholds, calibration and the report."""

from .score_table import ScoreTable


__all__ = ["ScoreTable"]
