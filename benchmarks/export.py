"""Speed and accuracy of a trained model in every form that it can be exported to, on the CPU.

Forms: eager and compiled PyTorch, `torch.export`, ONNX, and ONNX in 8 bits with dynamic and with static quantisation.
Times are medians of steps that take turns in one process, as ratios to eager. Accuracy is mAP on the same photographs
through the same pixels; static quantisation takes its ranges from the training split.
"""

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import onnx
import onnxruntime
import torch
from tqdm.auto import tqdm

from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.common.model_loading import load_trained_model
from modeling_cssfe.data import label_matrix, label_names_of
from modeling_cssfe.evaluation.logits import align_labels
from modeling_cssfe.evaluation.splits import load_split
from modeling_cssfe.export import export_onnx, export_torch
from modeling_cssfe.export.classifier import preprocess
from modeling_cssfe.export.description import with_image_size
from modeling_cssfe.export.onnx import onnx_runner
from modeling_cssfe.export.torch_export import ExportableClassifier
from modeling_cssfe.metrics import long_tail_map


Runner = Callable[[torch.Tensor], Sequence[Any]]
QUANTIZATION = {"onnx": "none", "onnx_int8_dynamic": "dynamic", "onnx_int8_static": "static"}
FORMS = ("eager", "compiled", "torch_export", *QUANTIZATION)
BATCH = 16  # images at a time where only accuracy counts
GROUPS = ("total", "head", "medium", "tail")


def build_runners(arguments, folder: Path) -> tuple[dict[str, Runner], dict[str, int]]:
    """Each form as a function from pixel values to outputs, and the size of its file in bytes."""
    torch.set_num_threads(arguments.threads)
    model, _ = load_trained_model(arguments.run)
    eager = ExportableClassifier(model.float())
    runners: dict[str, Runner] = {"eager": eager}
    sizes = {}
    for name in arguments.forms:
        if name == "compiled":
            runners[name] = torch.compile(eager)
        elif name == "torch_export":
            path = export_torch(arguments.run, folder / f"{name}.pt2").path
            runners[name] = torch.export.load(path).module()
            sizes[name] = path.stat().st_size
        elif name in QUANTIZATION:
            options: dict[str, Any] = {"quantize": QUANTIZATION[name]}
            if options["quantize"] == "static":
                options |= {"calibration_data": arguments.data, "calibration_images": arguments.calibration_images}
            path = export_onnx(arguments.run, folder / f"{name}.onnx", **options).path
            runners[name] = onnx_runner(path, arguments.threads)
            sizes[name] = path.stat().st_size
    return runners, sizes


def time_in_turns(runners: dict[str, Runner], pixels: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of each; the order rotates, so that none always follows the heaviest."""
    for run in runners.values():
        run(pixels)
        run(pixels)
    names = list(runners)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            runners[name](pixels)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def score_photographs(arguments, runners: dict[str, Runner]) -> dict[str, np.ndarray]:
    """Logits of each form on the split, `(N, C)`; images are read a batch at a time."""
    model, processor = load_trained_model(arguments.run)
    steps = with_image_size(processor)
    judged = load_split(arguments.data, arguments.split).dataset.cast_column("image", datasets.Image(decode=False))
    count = min(len(judged), arguments.images or len(judged))
    logits: dict[str, list[np.ndarray]] = {name: [] for name in runners}
    for start in tqdm(range(0, count, BATCH), desc="scoring"):
        images = [judged[index]["image"] for index in range(start, min(start + BATCH, count))]
        pixels = torch.from_numpy(preprocess(images, steps))
        for name, run in runners.items():
            logits[name].append(np.asarray(run(pixels)[0]))
    labels = align_labels(label_matrix(judged), label_names_of(judged), model.config.label_names)[:count]
    return {"labels": labels, **{name: np.concatenate(parts) for name, parts in logits.items()}}


def measure(arguments, folder: Path) -> list[dict[str, Any]]:
    runners, sizes = build_runners(arguments, folder)
    config = load_trained_model(arguments.run)[0].config
    scored = score_photographs(arguments, runners)
    labels = scored.pop("labels")
    probabilities = {name: 1 / (1 + np.exp(-logits.astype(np.float64))) for name, logits in scored.items()}
    medians = {}
    for batch in arguments.batch_sizes:
        pixels = torch.randn(batch, config.num_channels, *config.image_height_and_width)
        medians[batch] = time_in_turns(runners, pixels, arguments.repeats)
    rows = []
    for name in runners:
        figures = long_tail_map(probabilities[name], labels, config.class_counts, config.head_min, config.tail_max)
        row: dict[str, Any] = {"form": name, "megabytes": round(sizes[name] / 1e6, 2) if name in sizes else None}
        for batch, times in medians.items():
            row[f"milliseconds_batch_{batch}"] = round(1000 * times[name], 2)
            row[f"time_over_eager_batch_{batch}"] = round(times[name] / times["eager"], 3)
        row |= {f"map_{group}": round(100 * figures[f"map_{group}"], 3) for group in GROUPS}
        difference = np.abs(probabilities[name] - probabilities["eager"]).max()
        row |= {"largest_score_difference": float(f"{difference:.2g}"), "images": len(labels)}
        rows.append(row)
        print("  ".join(f"{key}={value}" for key, value in row.items()), flush=True)
    return rows


def write_csv(path: Path, rows: list[dict[str, Any]], arguments) -> None:
    versions = {"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}
    setting = {"repeats": arguments.repeats, "used_threads": arguments.threads, "split": arguments.split}
    rows = [row | setting | describe_environment() | versions for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("run", help="folder of a trained model")
    parser.add_argument("--data", default="../shared/data/voc07_lt", help="data with a training and the judged split")
    parser.add_argument("--split", default="validation", help="split to judge")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="what is measured; eager always is")
    parser.add_argument("--images", type=int, help="judge on the first so many images only")
    parser.add_argument("--calibration_images", type=int, default=128, help="images of static quantisation")
    parser.add_argument("--batch_sizes", type=int, nargs="*", default=[1, 8], help="images a timed step")
    parser.add_argument("--repeats", type=int, default=31, help="timed steps of each form")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="threads of every form")
    parser.add_argument("--output", type=Path, help="CSV file, for example benchmarks/results/export_cpu.csv")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        rows = measure(arguments, Path(folder))
    if arguments.output:
        write_csv(arguments.output, rows, arguments)


if __name__ == "__main__":
    main()
