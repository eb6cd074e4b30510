# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Binary cross-entropy, `-y log(p) - (1 - y) log(1 - p)` with `p = sigmoid(z)`: the baseline (ERM) of the field.

Shapes: logits and labels `(batch, classes)`; the loss is a scalar, or `(batch, classes)` with `reduction="none"`.
When to use: as the baseline, and wherever probabilities should stay calibrated to the training frequencies. On
long-tailed labels its gradient `p - y` is mostly that of negatives, which pushes rare classes down.
Recommended sampler: uniform.

The code lies in `loss_cssfe.py`, which a saved model carries with it.
"""

from ..loss_cssfe import BinaryCrossEntropyLoss, binary_cross_entropy


__all__ = ["BinaryCrossEntropyLoss", "binary_cross_entropy"]
