# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What each loss costs against binary cross-entropy: time and peak memory of forward and backward, eager and compiled.

Times are medians of steps that take turns in one process, so that a machine's moods hit all losses alike. They are
reported as ratios to the loss `bce` of this package, which masks unknown labels as all of them do, and beside that to
torch's own, which does not. Peak memory is what a step allocates beyond its inputs: the allocator's peak on a GPU, the
profiler's running sum of allocations on a CPU.
"""

import argparse
import csv
import os
import statistics
import time
from pathlib import Path

import torch
from torch import nn

from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.losses import build_loss, list_losses


TORCH_BCE = "torch_bce"


class Step:
    """Forward and backward of one loss on a fixed batch."""

    def __init__(self, loss: nn.Module, batch_size: int, num_classes: int, device: str):
        generator = torch.Generator().manual_seed(0)
        self.loss = loss.to(device)
        self.logits = torch.randn(batch_size, num_classes, generator=generator).to(device).requires_grad_()
        self.labels = (torch.rand(batch_size, num_classes, generator=generator) < 0.03).float().to(device)

    def __call__(self) -> None:
        self.logits.grad = None
        self.loss(self.logits, self.labels).backward()

    def seconds(self) -> float:
        synchronize(self.logits.device)
        start = time.perf_counter()
        self()
        synchronize(self.logits.device)
        return time.perf_counter() - start

    def peak_bytes(self) -> int:
        self()
        self.logits.grad = None
        if self.logits.is_cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            self()
            return torch.cuda.max_memory_allocated() - before
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            self()
        changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
        level = peak = 0
        for change in sorted(changes, key=lambda event: event.start_ns()):
            level += change.nbytes()
            peak = max(peak, level)
        return peak


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def class_counts(num_classes: int, num_samples: int) -> list[int]:
    """A long tail from half of the images down to one."""
    return [max(1, int(num_samples / 2 * 0.01 ** (c / num_classes))) for c in range(num_classes)]


def build_steps(names: list[str], num_classes: int, mode: str, arguments) -> dict[str, Step]:
    steps = {}
    for name in names:
        if name == TORCH_BCE:
            loss: nn.Module = nn.BCEWithLogitsLoss()
        else:
            loss = build_loss(name, class_counts(num_classes, 2000), 2000)
        if mode == "compile":
            loss.compile(fullgraph=True)
        step = Step(loss, arguments.batch_size, num_classes, arguments.device)
        try:
            for _ in range(3):
                step()
        except Exception as error:
            if mode == "eager":
                raise
            print(f"{name} at {num_classes} classes does not compile here: {str(error).splitlines()[0]}")
        else:
            steps[name] = step
    return steps


def measure(arguments) -> list[dict]:
    names = list(dict.fromkeys(["bce", TORCH_BCE, *arguments.losses]))
    rows = []
    for num_classes in arguments.classes:
        eager_bce = None
        for mode in arguments.modes:
            steps = build_steps(names, num_classes, mode, arguments)
            times: dict[str, list[float]] = {name: [] for name in steps}
            for _ in range(arguments.repeats):
                for name, step in steps.items():
                    times[name].append(step.seconds())
            medians = {name: statistics.median(values) for name, values in times.items()}
            peaks = {name: step.peak_bytes() for name, step in steps.items()}
            if mode == "eager":
                eager_bce = medians["bce"]
            for name in steps:
                row = {
                    "loss": name,
                    "mode": mode,
                    "batch_size": arguments.batch_size,
                    "classes": num_classes,
                    "median_us": round(medians[name] * 1e6, 1),
                    "time_over_bce": _ratio(medians[name], medians.get("bce")),
                    "time_over_torch_bce": _ratio(medians[name], medians.get(TORCH_BCE)),
                    "time_over_eager_bce": _ratio(medians[name], eager_bce),
                    "peak_bytes": peaks[name],
                    "memory_over_bce": _ratio(peaks[name], peaks.get("bce")),
                    "repeats": arguments.repeats,
                    "device": arguments.device,
                }
                rows.append(row)
                print("  ".join(f"{key}={value}" for key, value in list(row.items())[:10]), flush=True)
    return rows


def _ratio(value: float, base: float | None) -> float | None:
    return round(value / base, 3) if base else None


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
    parser.add_argument("--losses", nargs="*", choices=list_losses(), default=list_losses(), help="losses to measure")
    parser.add_argument("--classes", type=int, nargs="+", default=[80, 10_000], help="numbers of classes")
    parser.add_argument("--batch_size", type=int, default=64, help="images a step")
    parser.add_argument("--modes", nargs="+", choices=("eager", "compile"), default=["eager", "compile"], help="modes")
    parser.add_argument("--repeats", type=int, default=101, help="timed steps of each loss")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--output", type=Path, help="CSV file, for example benchmarks/results/losses.csv")
    arguments = parser.parse_args()
    rows = measure(arguments)
    if arguments.output:
        write_csv(arguments.output, rows)


if __name__ == "__main__":
    main()
