# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Average precision of 1,000,000 images x 1,000 classes: time a class and memory, against scikit-learn.

Scores (fp32) and labels (int8) are made a block of classes at a time, so that the benchmark fits into a small machine:
5 bytes a cell of a block, 320 MB for 1,000,000 x 64. Each block is judged with one thread and with all cores; the time
is that of `average_precision`, checks included, and not that of making the block. scikit-learn's
`average_precision_score` judges some columns of every block, one at a time, on the same scores; figures are compared.

`--whole` holds the whole matrix in memory instead (5 GB for the default) and runs `long_tail_map`, every figure.

Peak memory is what the process holds at most beyond the block (resident set, Linux); each row is a process of its own.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
from sklearn.metrics import average_precision_score

from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.metrics import average_precision, long_tail_map


def make_block(images: int, first: int, last: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores in [0, 1] and labels of the classes `first` to `last`, from half of the images down to ten positives."""
    generator = np.random.default_rng([0, first])
    scores = generator.random((images, last - first), dtype=np.float32)
    labels = np.zeros(scores.shape, dtype=np.int8)
    for column in range(last - first):
        positives = max(10, int(images / 2 * 1e-4 ** ((first + column) / classes)))
        rows = generator.integers(images, size=positives)
        labels[rows, column] = 1
        scores[rows, column] = np.sqrt(scores[rows, column])  # better than chance
    return scores, labels


class PeakMemory:
    """Largest resident set while it runs, in bytes beyond that at its start."""

    def __enter__(self):
        self._start = self.peak = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, _resident())

    def __exit__(self, *_):
        self._done.set()
        self._thread.join()
        self.extra = self.peak - self._start


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(function: str, threads: int, arguments) -> dict:
    """One row, in this process."""
    block = arguments.classes if function == "long_tail_map" else arguments.block_classes
    seconds, extra, judged, worst = 0.0, 0, 0, 0.0
    for first in range(0, arguments.classes, block):
        last = min(first + block, arguments.classes)
        scores, labels = make_block(arguments.images, first, last, arguments.classes)
        with PeakMemory() as memory:
            start = time.perf_counter()
            if function == "scikit-learn":
                sample = range(0, last - first, max(1, (last - first) // arguments.sample))[: arguments.sample]
                values = [average_precision_score(labels[:, column], scores[:, column]) for column in sample]
            elif function == "average_precision":
                sample, values = range(last - first), average_precision(scores, labels, num_workers=threads).tolist()
            else:
                counts = [max(1, int(500 * 1e-3 ** (index / block))) for index in range(block)]
                result = long_tail_map(scores, labels, counts, num_workers=threads)
                sample, values = range(last - first), list(result["per_class"].values())
            seconds += time.perf_counter() - start
        extra, judged = max(extra, memory.extra), judged + len(sample)
        if function != "scikit-learn":
            column = (last - first) // 2
            worst = max(worst, abs(values[column] - average_precision_score(labels[:, column], scores[:, column])))
    return {
        "function": function,
        "threads_used": threads,
        "images": arguments.images,
        "classes": arguments.classes,
        "classes_timed": judged,
        "classes_in_memory": min(block, arguments.classes),
        "seconds": round(seconds, 4),
        "milliseconds_a_class": round(1e3 * seconds / judged, 4),
        "extra_megabytes": round(extra / 1e6, 1),
        "largest_difference_to_scikit_learn": worst,
    }


def run(arguments) -> list[dict]:
    cores = len(os.sched_getaffinity(0))
    jobs = [("scikit-learn", 1), *(("average_precision", threads) for threads in sorted({1, cores}))]
    if arguments.whole:
        jobs += [("long_tail_map", threads) for threads in sorted({1, cores})]
    rows: list[dict] = []
    for function, threads in jobs:
        command = [sys.executable, __file__, "--row", function, str(threads), "--images", str(arguments.images)]
        command += ["--classes", str(arguments.classes), "--block_classes", str(arguments.block_classes)]
        command += ["--sample", str(arguments.sample)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        row = json.loads(done.stdout.splitlines()[-1])
        reference = (rows[0] if rows else row)["milliseconds_a_class"]
        # What long_tail_map does beside average precision has no counterpart in the sample.
        row["times_as_fast_as_scikit_learn"] = round(reference / row["milliseconds_a_class"], 3)
        rows.append(row)
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return rows


def write_csv(path: Path, rows: list[dict]) -> None:
    environment = describe_environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *environment])
        writer.writeheader()
        writer.writerows(row | environment for row in rows)
    os.replace(partial, path)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000, help="images")
    parser.add_argument("--classes", type=int, default=1000, help="classes")
    parser.add_argument("--block_classes", type=int, default=64, help="classes held in memory at once")
    parser.add_argument("--sample", type=int, default=4, help="classes of each block that scikit-learn judges")
    parser.add_argument("--whole", action="store_true", help="also long_tail_map on the whole matrix in memory")
    parser.add_argument("--output", type=Path, help="CSV file, for example benchmarks/results/metric.csv")
    parser.add_argument("--row", nargs=2, metavar=("FUNCTION", "THREADS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.row:
        print(json.dumps(measure(arguments.row[0], int(arguments.row[1]), arguments)))
        return
    rows = run(arguments)
    if arguments.output:
        write_csv(arguments.output, rows)


if __name__ == "__main__":
    main()
