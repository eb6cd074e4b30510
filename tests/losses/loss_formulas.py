# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Every loss written out slowly: one label at a time, in fp64, as the papers print it, on torch's autograd.

Nothing here is taken from the package. Labels are 0, 1, a soft label between, or -1 for unknown.
"""

import math

import torch


def clamped_odds(count, total):
    margin = min(1, total / 2)
    count = min(max(count, margin), total - margin)
    return count / (total - count)


def each_label(logits, labels, formula):
    rows = []
    for b in range(logits.shape[0]):
        row = []
        for c in range(logits.shape[1]):
            y = labels[b, c].item()
            row.append(formula(logits[b, c], y, b, c) if y >= 0 else 0 * logits[b, c])
        rows.append(torch.stack(row))
    return torch.stack(rows)


def cross_entropy(z, y):
    p = 1 / (1 + torch.exp(-z))
    return -y * torch.log(p) - (1 - y) * torch.log(1 - p)


def bce(logits, labels, counts, total):
    return each_label(logits, labels, lambda z, y, b, c: cross_entropy(z, y))


def mlsm(logits, labels, counts, total):
    classes = logits.shape[1]
    known = [(row >= 0).sum().item() for row in labels]
    return each_label(logits, labels, lambda z, y, b, c: cross_entropy(z, y) * classes / known[b])


def rw(logits, labels, counts, total):
    weights = [math.sqrt(total / max(n, 1)) for n in counts]
    mean = sum(weights) / len(weights)
    return each_label(logits, labels, lambda z, y, b, c: cross_entropy(z, y) * weights[c] / mean)


def focal(logits, labels, counts, total, gamma=2.0, balance=2.0):
    def formula(z, y, b, c):
        p = 1 / (1 + torch.exp(-z))
        positive = (1 - p) ** gamma * -torch.log(p)
        negative = p**gamma * -torch.log(1 - p)
        return balance * (y * positive + (1 - y) * negative)

    return each_label(logits, labels, formula)


def cb_focal(logits, labels, counts, total, beta=0.9, normalize=False, **options):
    weights = torch.tensor([(1 - beta) / (1 - beta ** max(n, 1)) for n in counts], dtype=torch.float64)
    if normalize:
        weights = weights * len(counts) / weights.sum()
    return focal(logits, labels, counts, total, **options) * weights


def asl(logits, labels, counts, total, gamma_pos=0.0, gamma_neg=4.0, margin=0.05, focusing_gradient=False):
    def formula(z, y, b, c):
        p = 1 / (1 + torch.exp(-z))
        shifted = torch.clamp(p - margin, min=0)
        positive_weight, negative_weight = (1 - p) ** gamma_pos, shifted**gamma_neg
        if not focusing_gradient:
            positive_weight, negative_weight = positive_weight.detach(), negative_weight.detach()
        return -y * positive_weight * torch.log(p) - (1 - y) * negative_weight * torch.log(1 - shifted)

    return each_label(logits, labels, formula)


def ldam(logits, labels, counts, total, max_margin=0.5, scale=30.0, reweight_beta=0.9999, reweight_epoch=None):
    raw = [max(n, 1) ** -0.25 for n in counts]
    margins = [max_margin * m / max(raw) for m in raw]
    weights = [1.0 for _ in counts]
    if reweight_epoch == 0:
        weights = [(1 - reweight_beta) / (1 - reweight_beta ** max(n, 1)) for n in counts]
        weights = [w * len(weights) / sum(weights) for w in weights]

    def formula(z, y, b, c):
        positive = torch.log(1 + torch.exp(-scale * (z - margins[c])))
        negative = torch.log(1 + torch.exp(scale * z))
        return weights[c] * (y * positive + (1 - y) * negative)

    return each_label(logits, labels, formula)


PUBLISHED_DB = {"voc": (0.3, 5.0), "coco": (0.2, 2.0)}


def db(
    logits,
    labels,
    counts,
    total,
    preset=None,
    mu=None,
    negative_scale=None,
    alpha=0.1,
    beta=10.0,
    kappa=0.05,
    shift_over_scale=False,
    gamma=0.0,
    balance=1.0,
):
    rule = (min(1, total / max(sum(counts), 1)), 2.0)
    centre, lam = PUBLISHED_DB[preset] if preset else rule
    centre = centre if mu is None else mu
    lam = lam if negative_scale is None else negative_scale

    def formula(z, y, b, c):
        drawn = sum(max(y_j.item(), 0) / max(n, 1) for y_j, n in zip(labels[b], counts, strict=True))
        ratio = (1 / max(counts[c], 1)) / drawn if drawn > 0 else math.inf
        weight = alpha + 1 / (1 + math.exp(-min(beta * (ratio - centre), 700)))
        nu = kappa * math.log(1 / clamped_odds(counts[c], total))
        x = z - (nu / lam if shift_over_scale else nu)
        positive_p = 1 / (1 + torch.exp(-x))
        negative_p = 1 / (1 + torch.exp(-lam * x))
        positive = (1 - positive_p) ** gamma * torch.log(1 + torch.exp(-x))
        negative = negative_p**gamma / lam * torch.log(1 + torch.exp(lam * x))
        return balance * weight * (y * positive + (1 - y) * negative)

    return each_label(logits, labels, formula)


def db_focal(logits, labels, counts, total, gamma=2.0, balance=2.0, **options):
    return db(logits, labels, counts, total, gamma=gamma, balance=balance, **options)


# l1+, l2+, l1-, l2-, and whether they are raised for the tail only
PUBLISHED_PG = {"voc": (1, 2, 2, 1, True), "coco": (2, 1, 2, 1, False), None: (2, 1, 2, 1, True)}


def pg(
    logits,
    labels,
    counts,
    total,
    preset=None,
    pr=True,
    apr=None,
    apaf=True,
    positive_scale=None,
    positive_divisor=None,
    negative_scale=None,
    negative_divisor=None,
    kappa=0.05,
    gamma=2.0,
    head_min=100,
    tail_max=20,
):
    classes = range(len(counts))
    *published, tail_only = PUBLISHED_PG[preset]
    given = (positive_scale, positive_divisor, negative_scale, negative_divisor)
    raised = [p if g is None else g for p, g in zip(published, given, strict=True)]
    tail_only = tail_only if apr is None else apr
    group = ["head" if n >= head_min else "tail" if n < tail_max else "medium" for n in counts]
    scales = [raised if pr and (group[c] == "tail" or not tail_only) else (1, 1, 1, 1) for c in classes]
    nus = [kappa * math.log(1 / clamped_odds(n, total)) if pr else 0 for n in counts]

    def right_answer(z, c, positive):
        a, _, b, _ = scales[c]
        return 1 / (1 + torch.exp(-a * (z - nus[c]))) if positive else 1 / (1 + torch.exp(b * (z - nus[c])))

    def class_mean(c, positive):
        total_weight, total_p = 0.0, 0.0
        for b in range(logits.shape[0]):
            y = labels[b, c].item()
            if y >= 0:
                weight = y if positive else 1 - y
                total_weight += weight
                total_p += weight * right_answer(logits[b, c], c, positive).item()
        return total_p / total_weight if total_weight > 0 else None

    own = {(c, s): class_mean(c, s) for c in classes for s in (True, False)}

    def mean(c, positive):
        if own[c, positive] is not None:
            return own[c, positive]
        others = [own[k, positive] for k in classes if group[k] == group[c] and own[k, positive] is not None]
        return sum(others) / len(others) if others else None

    def exponents(c):
        plus, minus = mean(c, True), mean(c, False)
        if not apaf or plus is None or minus is None:
            return gamma, gamma
        return gamma * plus / minus, gamma * minus / plus

    def formula(z, y, b, c):
        a_plus, d_plus, a_minus, d_minus = scales[c]
        gamma_plus, gamma_minus = exponents(c)
        x = z - nus[c]
        positive = torch.log(1 + torch.exp(-a_plus * x)) / d_plus * (1 - right_answer(z, c, True)) ** gamma_plus
        negative = torch.log(1 + torch.exp(a_minus * x)) / d_minus * (1 - right_answer(z, c, False)) ** gamma_minus
        return y * positive + (1 - y) * negative

    return each_label(logits, labels, formula)


def two_way(logits, labels, counts, total, positive_temperature=4.0, negative_temperature=1.0, beta=0.9):
    weights = [(1 - beta) / (1 - beta ** max(n, 1)) for n in counts]
    weights = [w * len(weights) / sum(weights) for w in weights]

    def term(z, y):
        positive = [torch.exp(-v / positive_temperature) for v, k in zip(z, y, strict=True) if k >= 0.5]
        negative = [torch.exp(v / negative_temperature) for v, k in zip(z, y, strict=True) if 0 <= k < 0.5]
        if not positive or not negative:
            return 0 * z.sum(), bool(positive)
        inner = sum(positive) ** positive_temperature * sum(negative) ** negative_temperature
        return torch.log(1 + inner), True

    images = [term(z, y) for z, y in zip(logits, labels, strict=True)]
    per_class = [term(z, y) for z, y in zip(logits.T, labels.T, strict=True)]
    image_number = max(sum(present for _, present in images), 1)
    class_number = max(sum(present for _, present in per_class), 1)
    known = labels >= 0

    def share(z, y, b, c):
        of_image = images[b][0] / image_number / known[b].sum()
        of_class = weights[c] * per_class[c][0] / class_number / known[:, c].sum()
        return (of_image + of_class) * known.sum()

    return each_label(logits, labels, share)


def logit_adjustment(logits, labels, counts, total, tau=1.0):
    shift = [tau * math.log(clamped_odds(n, total)) for n in counts]
    return each_label(logits, labels, lambda z, y, b, c: cross_entropy(z + shift[c], y))


FORMULAS = {
    "bce": bce,
    "mlsm": mlsm,
    "rw": rw,
    "focal": focal,
    "cb_focal": cb_focal,
    "asl": asl,
    "ldam": ldam,
    "db": db,
    "db_focal": db_focal,
    "pg": pg,
    "two_way": two_way,
    "logit_adjustment": logit_adjustment,
}

# Options under which each loss is compared with its formula; defaults first.
OPTIONS = {
    "bce": [{}],
    "mlsm": [{}],
    "rw": [{}],
    "focal": [{}, {"gamma": 0}, {"gamma": 1}, {"gamma": 0.5, "balance": 1}, {"gamma": 3.3}, {"gamma": 5}],
    "cb_focal": [{}, {"beta": 0.999, "normalize": True}, {"beta": 0, "gamma": 1.0}],
    "asl": [
        {},
        {"gamma_pos": 1, "gamma_neg": 2, "margin": 0},
        {"gamma_pos": 2.5, "gamma_neg": 3, "margin": 0.2, "focusing_gradient": True},
        {"gamma_neg": 8, "focusing_gradient": True},
        {"gamma_pos": 0.5, "gamma_neg": 1, "margin": 1e-7},
    ],
    "ldam": [{"scale": 1}, {"scale": 4, "max_margin": 0.2}, {"scale": 2, "reweight_epoch": 0, "reweight_beta": 0.99}],
    "db": [{}, {"preset": "voc"}, {"preset": "coco", "shift_over_scale": True}, {"mu": 0.5, "negative_scale": 1.5}],
    "db_focal": [
        {},
        {"preset": "voc", "shift_over_scale": True},
        {"preset": "coco", "kappa": 1.0, "alpha": 0.0, "beta": 3.0},
        {"gamma": 1.5, "balance": 1.0},
    ],
    "pg": [
        {},
        {"preset": "voc"},
        {"preset": "coco"},
        {"preset": "coco", "apr": True},
        {"pr": False},
        {"apr": False, "apaf": False},
        {"apaf": False, "gamma": 0, "kappa": 0.5},
        {"positive_scale": 5, "positive_divisor": 3, "negative_scale": 0.5, "negative_divisor": 0.7, "gamma": 1.2},
        {"head_min": 10, "tail_max": 5},
    ],
    "two_way": [{}, {"beta": 0}, {"positive_temperature": 1, "negative_temperature": 2, "beta": 0.99}],
    "logit_adjustment": [{}, {"tau": 0.3}, {"tau": 0}],
}
