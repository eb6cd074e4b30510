# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Asymmetric loss: easy negatives fade and those below a margin vanish. The loss of CSSFE.

`-y (1 - p)^gamma_pos log(p) - (1 - y) p_m^gamma_neg log(1 - p_m)` with `p_m = max(p - margin, 0)`.

Source: Ridnik et al., "Asymmetric Loss For Multi-Label Classification", ICCV 2021.

Shapes: logits and labels `(batch, classes)`; the loss is a scalar, or `(batch, classes)` with `reduction="none"`.
When to use: first, for any multi-label set; it needs no class counts.
Recommended sampler: uniform.

The code lies in `loss_cssfe.py`, which a saved model carries with it.
"""

from ..loss_cssfe import AsymmetricLoss, asymmetric_loss


__all__ = ["AsymmetricLoss", "asymmetric_loss"]
