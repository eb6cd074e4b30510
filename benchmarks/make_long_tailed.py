# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What drawing a long tail costs: seconds, peak memory, and how far the draw is from its targets.

The source is made up: images of one to several labels whose frequencies fall like 1 / rank and that come in groups of
neighbours, half of the time. Each method runs in a process of its own, so that the peak memory is its alone; the labels
are made there too and belong to it. The steps are those of `make_long_tailed` without its images: order of the classes,
draw, and stratified validation and test from the rest.
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from scipy import sparse

from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.data.long_tail.drawing import METHODS, draw_long_tail
from modeling_cssfe.data.long_tail.make import cooccurrence_order, pareto_counts
from modeling_cssfe.data.stratification import sample_covering, stratified_split


def make_labels(num_images: int, num_classes: int, mean_labels: float = 3.0) -> sparse.csr_matrix:
    generator = np.random.default_rng(0)
    frequency = 1 / np.arange(1, num_classes + 1)
    frequency /= frequency.sum()
    sizes = 1 + generator.poisson(mean_labels - 1, num_images)
    total = int(sizes.sum())
    rows = np.repeat(np.arange(num_images), sizes)
    anchors = np.repeat(generator.choice(num_classes, num_images, p=frequency), sizes)
    neighbours = (anchors + generator.integers(0, 8, total)) % num_classes
    columns = np.where(generator.random(total) < 0.5, neighbours, generator.choice(num_classes, total, p=frequency))
    labels = sparse.csr_matrix((np.ones(total, dtype=np.int8), (rows, columns)), shape=(num_images, num_classes))
    labels.data[:] = 1  # a label drawn twice was added up
    return labels


def peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def measure(arguments, method: str) -> dict:
    before = peak_bytes()
    labels = make_labels(arguments.images, arguments.classes)
    seconds, mark = {}, time.perf_counter()

    def lap(step: str) -> None:
        nonlocal mark
        seconds[f"{step}_s"] = round(time.perf_counter() - mark, 2)
        mark = time.perf_counter()

    targets = np.empty(arguments.classes, dtype=np.int64)
    targets[cooccurrence_order(labels)] = pareto_counts(arguments.classes, arguments.max_count)
    lap("order")
    drawn = draw_long_tail(labels, targets, method=method, time_limit=arguments.time_limit)
    lap("draw")
    rest = np.setdiff1d(np.arange(arguments.images), drawn.rows, assume_unique=True)
    stratified_split(labels[rest], [len(rest) // 2, len(rest) - len(rest) // 2])
    lap("split")
    whole = round(sum(seconds.values()), 2)
    sample_covering(labels[rest], 20)
    lap("cover")
    return {
        "images": arguments.images,
        "classes": arguments.classes,
        "labels": labels.nnz,
        "max_count": arguments.max_count,
        "asked": method,
        "method": drawn.method,
        "status": drawn.status,
        "wanted_labels": int(targets.sum()),
        "drawn_images": len(drawn.rows),
        "deviation": round(drawn.deviation, 4),
        "classes_off": int((np.array(drawn.reached) != targets).sum()),
        **seconds,
        "draw_and_split_s": whole,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before": before,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="images to draw from")
    parser.add_argument("--classes", type=int, default=1000, help="classes")
    parser.add_argument("--max_count", type=int, default=5000, help="wanted images of the first class")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["auto"], help="methods to measure")
    parser.add_argument("--time_limit", type=float, default=60.0, help="seconds for each step of the exact method")
    parser.add_argument("--output", type=Path, help="CSV file, such as benchmarks/results/make_long_tailed.csv")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        row = measure(arguments, arguments.one) | describe_environment()
        writer = csv.DictWriter(sys.stdout, fieldnames=list(row))
        writer.writeheader()
        writer.writerow(row)
        return
    rows: list[dict] = []
    for method in arguments.methods:
        printed = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--one", method], check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        rows += csv.DictReader(printed.splitlines())
        print("  ".join(f"{key}={value}" for key, value in list(rows[-1].items())[:18]), flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        partial = arguments.output.with_suffix(".partial")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        os.replace(partial, arguments.output)
        print(arguments.output)


if __name__ == "__main__":
    main()
