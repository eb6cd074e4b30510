# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Score tables made for tests."""

import numpy as np

from modeling_cssfe.evaluation import ScoreTable


COUNTS = (300, 120, 50, 30, 10, 4)
NAMES = ("person", "car", "dog", "cat", "bus", "cow")


def make_table(images=80, seed=0, name="model", skill=1.0, unknown=0.1, ties=True, **fields):
    """Six classes, two a group, with unknown labels, ties and a rare class; better than chance by `skill`."""
    labels = make_labels(images, unknown)
    noise = np.random.default_rng([seed, 7])
    scores = 1 / (1 + np.exp(-(skill * (labels == 1) - 1 + noise.normal(size=labels.shape))))
    if ties:
        scores = np.round(scores, 1)
    values = {
        "name": name,
        "image_ids": tuple(f"image {row}" for row in range(images)),
        "label_names": NAMES,
        "scores": scores,
        "labels": labels,
        "class_counts": COUNTS,
    }
    return ScoreTable(**{**values, **fields})


def make_labels(images, unknown=0.1):
    """The same labels for every model; the last class has 3 positives in 80 images."""
    generator = np.random.default_rng(5)
    rates = np.array([0.5, 0.3, 0.2, 0.15, 0.1, 0.03])
    labels = (generator.random((images, 6)) < rates).astype(np.float32)
    labels[generator.random(labels.shape) < unknown] = -1
    labels[:2, 5] = 1
    return labels
