"""What CSSFE costs on top of its backbone: time and peak memory of net3 against net0 and an unoptimised reference.

Times are medians of steps that take turns in one process, so that a machine's moods hit all models alike, and are
reported as ratios to net0. Peak memory is measured in a process of its own for each model (allocator peak on a GPU,
resident set on a CPU). `--growth` measures the head alone on synthetic maps up to 10,000 classes.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from unoptimised import UnoptimisedCSSFE

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.common.environment import describe_environment


REFERENCES = ("reference", "reference_with_text_tower")
MODELS = ("net0", "net3", "net3_released", "plus", *REFERENCES)


def class_counts(num_classes: int) -> list[int]:
    """Counts that fall from 775 to 4 over any number of classes, like LT-VOC's."""
    return [max(4, round(775 * (4 / 775) ** (index / max(num_classes - 1, 1)))) for index in range(num_classes)]


def build(name: str, num_classes: int, arguments) -> torch.nn.Module:
    released = name == "net3_released" or name in REFERENCES
    preset = "released" if released else "plus" if name == "plus" else "corrected"
    config = CSSFEConfig(
        backbone=arguments.backbone,
        image_size=arguments.image_size,
        class_counts=class_counts(num_classes),
        preset=preset,
        ablation="net0" if name == "net0" else "net3",
        label_embedding_dim=1024 if released else 512,
        num_pretrained_labels=1000 if name == "plus" else 0,
    )
    torch.manual_seed(0)
    if name in REFERENCES:
        model = UnoptimisedCSSFE(config, text_tower=name == "reference_with_text_tower")
    else:
        model = CSSFEForImageClassification(config)
    return model.to(arguments.device, memory_format=torch.channels_last)


class Step:
    """One training or inference step of a model on fixed random images."""

    def __init__(self, name: str, num_classes: int, training: bool, arguments):
        self.model = build(name, num_classes, arguments).train(training)
        self.training = training
        self.device = torch.device(arguments.device)
        self.bf16 = arguments.bf16
        size = (arguments.batch_size, 3, arguments.image_size, arguments.image_size)
        self.images = torch.randn(size).to(self.device, memory_format=torch.channels_last)
        self.labels = (torch.rand(arguments.batch_size, num_classes) < 0.1).float().to(self.device)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True) if training else None

    def __call__(self) -> float:
        start = time.perf_counter()
        with torch.set_grad_enabled(self.training):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                output = self.model(self.images, labels=self.labels if self.training else None)
            if self.training:
                loss = output if isinstance(output, torch.Tensor) else output.loss
                loss.backward()
                self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start


def time_in_turns(steps: dict[str, Step], repeats: int, limit_seconds: float) -> dict[str, list[float]]:
    """Seconds of each model's steps; the order rotates, so that none always follows the heaviest."""
    for step in steps.values():
        step()
        step()
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    started = time.perf_counter()
    for turn in range(repeats):
        if turn >= 5 and time.perf_counter() - started > limit_seconds:
            break
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(steps[name]())
    return times


def peak_resident_bytes() -> int:
    """This process's own peak; `ru_maxrss` would begin at the peak of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def peak_memory(step: Step) -> int:
    """Bytes at the peak of two steps."""
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        step()
        step()
        return torch.cuda.max_memory_allocated()
    step()
    step()
    return peak_resident_bytes()


def peak_memory_in_own_process(name: str, num_classes: int, training: bool, arguments) -> int | None:
    options = {**vars(arguments), "peak_of": [name, num_classes, training]}
    command = [sys.executable, __file__, "--peak_of", json.dumps(options, default=str)]
    done = subprocess.run(command, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def measure(arguments) -> list[dict]:
    rows = []
    for num_classes in arguments.classes:
        for training in (True, False):
            # At 1,203 classes the reference's products take 4 GB each, and the text tower a minute a step on a CPU.
            limits = {"reference": arguments.reference_limit, "reference_with_text_tower": arguments.text_tower_limit}
            names = [name for name in arguments.models if num_classes <= limits.get(name, num_classes)]
            steps = {name: Step(name, num_classes, training, arguments) for name in names}
            times = time_in_turns(steps, arguments.repeats, arguments.limit_seconds)
            del steps
            medians = {name: statistics.median(values) for name, values in times.items()}
            peaks = {name: peak_memory_in_own_process(name, num_classes, training, arguments) for name in names}
            for name in names:
                row = {
                    "classes": num_classes,
                    "mode": "training" if training else "inference",
                    "model": name,
                    "median_seconds": round(medians[name], 5),
                    "time_over_net0": round(medians[name] / medians["net0"], 3),
                    "peak_bytes": peaks[name],
                    "memory_over_net0": round(peaks[name] / peaks["net0"], 3) if peaks[name] else None,
                    "batch_size": arguments.batch_size,
                    "image_size": arguments.image_size,
                    "backbone": arguments.backbone,
                    "precision": "bf16" if arguments.bf16 else "fp32",
                    "repeats": len(times[name]),
                }
                rows.append(row)
                print("  ".join(f"{key}={row[key]}" for key in list(row)[:7]), flush=True)
    return rows


def measure_growth(arguments) -> list[dict]:
    """Head alone (feature width 2048, 14 x 14 maps, one image): a training step up to 10,000 classes."""
    rows = []
    for num_classes in arguments.growth:
        code = (
            "import json, resource, sys, time, torch\n"
            f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from growth import head_step\n"
            f"print(json.dumps(head_step({num_classes})))\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{num_classes} classes failed: {done.stderr.strip().splitlines()[-1:]}")
        row = {"classes": num_classes, "mode": "head only, training", **json.loads(done.stdout.splitlines()[-1])}
        rows.append(row)
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return rows


def write_csv(path: Path, rows: list[dict]) -> None:
    environment = describe_environment()
    rows = [row | environment for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="*", default=[20, 80, 1203], help="numbers of classes")
    parser.add_argument("--growth", type=int, nargs="*", default=[], help="numbers of classes for the head alone")
    parser.add_argument("--backbone", default="resnet50", help="timm architecture")
    parser.add_argument("--image_size", type=int, default=448, help="image side in pixels")
    parser.add_argument("--batch_size", type=int, default=2, help="images a step")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="net0 is always needed")
    parser.add_argument("--repeats", type=int, default=25, help="timed steps of each model")
    parser.add_argument("--limit_seconds", type=float, default=240, help="fewer steps, but 5, if they take longer")
    parser.add_argument("--reference_limit", type=int, default=1203, help="most classes of the reference")
    parser.add_argument("--text_tower_limit", type=int, default=80, help="most classes of the one with a text tower")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    parser.add_argument("--output", type=Path, help="CSV file, for example benchmarks/results/model_cost_cpu.csv")
    parser.add_argument("--peak_of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        options = argparse.Namespace(**json.loads(arguments.peak_of))
        name, num_classes, training = options.peak_of
        print(peak_memory(Step(name, num_classes, training, options)))
        return
    if arguments.classes:
        rows = measure(arguments)
        if arguments.output:
            write_csv(arguments.output, rows)
    if arguments.growth:
        rows = measure_growth(arguments)
        if arguments.output:
            write_csv(arguments.output.with_name(f"{arguments.output.stem}_growth.csv"), rows)


if __name__ == "__main__":
    main()
