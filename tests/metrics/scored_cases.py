# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Score matrices that hypothesis makes, and the slow ways to walk them."""

import contextlib

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


# Multiples of 1/8 tie often; (2 k + 1) / 128 never lies on the edge of one of 15 bins nor on a threshold of k / 8.
TIED_SCORES = st.integers(0, 8).map(lambda k: k / 8)
SPREAD_SCORES = st.integers(0, 63).map(lambda k: (2 * k + 1) / 128)
FREE_SCORES = st.floats(0, 1, width=32)


@st.composite
def scored_labels(draw, scores=None, unknown=True, min_classes=1, max_images=24):
    """`(N, C)` fp64 scores (exact in fp32) and labels 1, 0 and, if `unknown`, -1 or NaN, with absent classes."""
    shape = (draw(st.integers(1, max_images)), draw(st.integers(min_classes, 5)))
    elements = draw(st.sampled_from([TIED_SCORES, SPREAD_SCORES, FREE_SCORES])) if scores is None else scores
    values = draw(hnp.arrays(np.float64, shape, elements=elements))
    choices = [0.0, 0.0, 1.0] + ([-1.0, np.nan] if unknown else [])
    labels = draw(hnp.arrays(np.float64, shape, elements=st.sampled_from(choices)))
    if draw(st.booleans()):
        column = draw(st.integers(0, shape[1] - 1))
        labels[:, column] = np.where(labels[:, column] == 1, 0, labels[:, column])  # an absent class
    return values, labels


def known(labels):
    return (labels == 0) | (labels == 1)


def columns(scores, labels):
    """The scores and labels of each class without its unknown labels."""
    for column in range(scores.shape[1]):
        mask = known(labels[:, column])
        yield scores[mask, column], labels[mask, column].astype(int)


def rows(scores, labels):
    """The scores and labels of each image without its unknown labels."""
    yield from columns(scores.T, labels.T)


def for_torchmetrics(scores, labels):
    """fp64 probabilities and integer labels with -1 for unknown, as tensors."""
    import torch

    return torch.tensor(scores, dtype=torch.float64), torch.tensor(np.where(known(labels), labels, -1)).long()


@contextlib.contextmanager
def in_fp64():
    """torchmetrics divides counts in torch's default dtype; only in fp64 can it be held to 1e-9."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
