"""How busy the training engine keeps the machine: images/s against a bare loop of the same model on fixed tensors.

The bare loop is what a step cannot do without: forward, backward, optimizer, in the same precision and memory format,
on one batch that lies on the device already. The engine decodes or reads a cache, augments, copies, clips gradients,
averages weights, watches losses and logs. Both take turns in one process, so that a machine's moods hit both alike;
figures are medians over the rounds. A turn of the engine is two epochs, of which the second counts: while the bare loop
has its turn, loader processes work ahead. Images are noise of VOC's usual size, as JPEG in Parquet.

`--step_seconds S` lets each step of both loops sleep so long in its forward pass, as a CPU does that waits for a GPU.
With a backbone that costs nothing (`test_resnet`) this shows on any machine whether its loader would keep such a GPU
busy.

`--whole_run RECIPE` trains a recipe from beginning to end instead, on given data, and records the time it took.
Rows are appended to the CSV file.
"""

import argparse
import copy
import io
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ablations import append_row
from PIL import Image

from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.image_processing_cssfe import CSSFEImageProcessor
from modeling_cssfe.training import load_recipe, train
from modeling_cssfe.training.engine import build_run_accelerator
from modeling_cssfe.training.loop import train_epoch
from modeling_cssfe.training.monitor import RunMonitor
from modeling_cssfe.training.optimization import build_optimizer
from modeling_cssfe.training.preparation import build_run_loaders, build_run_model, load_run_data
from modeling_cssfe.training.run import Run
from modeling_cssfe.training.run_folder import RunFolder


# What the loader does; the key is the name in the table.
DATA: dict[str, dict[str, Any]] = {
    "decoded cache": {"augmentation": "none"},
    "decoded cache, RandAugment": {"augmentation": "rand"},
    "decoded cache, augmented on the device": {
        "augmentation": "none",
        "augment_on_device": True,
        "color_jitter": 0.2,
    },
    "JPEG, RandAugment": {"augmentation": "rand"},
}
COLUMNS = (
    *("what", "recipe", "data", "images_per_second", "bare_images_per_second", "of_bare", "seconds", "map_total"),
    *("device", "precision", "backbone", "image_size", "batch_size", "num_workers", "compile", "epochs", "images"),
    *("rounds", "peak_gpu_bytes", "step_seconds"),
)


def write_noise(folder: Path, images: int, classes: int) -> None:
    """Parquet files of `train` and `validation`: smooth noise of 500 x 375 px, JPEG, one or two labels an image."""
    import datasets

    features = datasets.Features(
        image_id=datasets.Value("string"),
        image=datasets.Image(),
        labels=datasets.List(datasets.ClassLabel(names=[f"class {number}" for number in range(classes)])),
    )
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("validation", classes)):
        encoded = []
        for _ in range(count):
            small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
            encoded.append({"bytes": file.getvalue(), "path": None})
        content = {
            "image_id": [f"{split}-{number}" for number in range(count)],
            "image": encoded,
            "labels": [sorted({number % classes, number // 3 % classes}) for number in range(count)],
        }
        datasets.Dataset.from_dict(content, features=features).to_parquet(str(folder / f"{split}.parquet"))


class BareLoop:
    """The same model, optimizer, precision and memory format on one batch that stays on the device."""

    def __init__(self, model, recipe, device: torch.device, precision: str, num_classes: int):
        self.model = copy.deepcopy(model).to(device).train()
        size = (recipe.batch_size, 3, recipe.image_size, recipe.image_size)
        self.images = torch.randn(size, device=device)
        if recipe.channels_last:
            self.model.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.labels = (torch.rand(recipe.batch_size, num_classes, device=device) < 0.1).float()
        self.optimizer = build_optimizer(self.model, recipe)
        if recipe.compile:
            self.model.compile()
        self.device = device
        self.precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)

    def images_per_second(self, steps: int) -> float:
        wait(self.device)
        started = time.perf_counter()
        for _ in range(steps):
            with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
                loss = self.model(self.images, labels=self.labels).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        wait(self.device)
        return steps * len(self.images) / (time.perf_counter() - started)


def sleep(seconds: float, *arguments: Any) -> None:
    time.sleep(seconds)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(arguments, name: str, data: Path, folder: Path) -> dict:
    """One row: rounds of the engine and of the bare loop in turns, after an epoch of warm-up each."""
    values = {
        "data": str(data),
        "backbone": arguments.backbone,
        "backbone_weights": False,
        "label_embeddings": "random",
        "image_size": arguments.image_size,
        "batch_size": arguments.batch_size,
        "epochs": 2 * (arguments.rounds + 1),
        "mixed_precision": arguments.precision,
        "num_workers": arguments.num_workers,
        "compile": arguments.compile,
        "decoded_cache": None if name.startswith("JPEG") else str(folder / "decoded"),
        **DATA[name],
    }
    recipe = load_recipe(None, arguments.set, values)
    accelerator = build_run_accelerator(recipe, folder / "run")
    torch.manual_seed(0)
    loaded = load_run_data(recipe, False)
    model = build_run_model(recipe, loaded)
    processor = CSSFEImageProcessor.from_model_config(model.config)
    loaders = build_run_loaders(recipe, processor, loaded, False)
    if arguments.step_seconds:
        model.register_forward_pre_hook(partial(sleep, arguments.step_seconds))
    bare = BareLoop(model, recipe, accelerator.device, accelerator.mixed_precision, len(loaded.label_names))
    run = Run(recipe, loaded, RunFolder(folder / "run"), accelerator, model, loaders, quiet=True)
    run.folder.create()
    run.prepare()
    run.observers = [RunMonitor(run)]
    steps = run.steps_per_epoch
    engine_rates, bare_rates = [], []
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for turn in range(arguments.rounds + 1):
        for epoch in (2 * turn + 1, 2 * turn + 2):
            run.epoch, run.step = epoch, 0
            run.set_epoch()
            rate = train_epoch(run)["images_per_second"]
        engine_rates.append(rate)
        bare_rates.append(bare.images_per_second(steps))
    engine_rates, bare_rates = engine_rates[1:], bare_rates[1:]  # the first of each warms up
    return {
        "what": "engine against bare loop",
        "data": name,
        "images_per_second": round(statistics.median(engine_rates), 2),
        "bare_images_per_second": round(statistics.median(bare_rates), 2),
        "of_bare": round(statistics.median(a / b for a, b in zip(engine_rates, bare_rates, strict=True)), 3),
        "images": steps * recipe.batch_size,
        "rounds": arguments.rounds,
        "step_seconds": arguments.step_seconds or None,
        "peak_gpu_bytes": torch.cuda.max_memory_allocated() if accelerator.device.type == "cuda" else None,
        **described(
            recipe, accelerator.device.type, accelerator.mixed_precision, loaders[recipe.train_split].num_workers
        ),
    }


def described(recipe, device: str, precision: str, workers) -> dict:
    names = ("backbone", "image_size", "batch_size", "compile", "epochs")
    return {name: getattr(recipe, name) for name in names} | {
        "device": device,
        "precision": precision,
        "num_workers": workers,
    }


def whole_run(arguments, name: str, folder: Path) -> dict:
    """One row: a recipe from beginning to end, loading, evaluations and saving included."""
    given = {key: getattr(arguments, key) for key in ("data", "backbone_weights", "label_embeddings")}
    recipe = load_recipe(name, arguments.set, {key: value for key, value in given.items() if value is not None})
    started = time.perf_counter()
    results = train(recipe, folder / "run", quiet=True)
    seconds = time.perf_counter() - started
    rates = [entry["images_per_second"] for entry in read_log(folder / "run")]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "what": "whole run",
        "recipe": name,
        "data": Path(recipe.data).name,
        "images_per_second": statistics.median(rates),
        "seconds": round(seconds, 1),
        "map_total": round(results["map_total"], 4),
        "images": results["num_training_images"],
        **described(recipe, device, results["mixed_precision"], recipe.num_workers),
    }


def read_log(folder: Path) -> list[dict]:
    import json

    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", help="timm architecture")
    parser.add_argument("--image_size", type=int, default=224, help="image side in pixels")
    parser.add_argument("--batch_size", type=int, default=16, help="images a step; 64 keeps a GPU busy")
    parser.add_argument("--images", type=int, default=128, help="images of an epoch")
    parser.add_argument("--classes", type=int, default=20, help="number of classes")
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs of each")
    parser.add_argument("--step_seconds", type=float, default=0.0, help="what each forward pass sleeps")
    parser.add_argument("--precision", default="auto", choices=["auto", "no", "bf16", "fp16"], help="of both loops")
    parser.add_argument("--num_workers", type=int, help="loader processes; by default the engine's choice")
    parser.add_argument("--compile", action="store_true", help="torch.compile in both loops")
    parser.add_argument("--loaders", nargs="*", choices=list(DATA), default=list(DATA), help="which loaders")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="refuse to run elsewhere; by default what is there")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other keys of the recipe")
    parser.add_argument("--whole_run", nargs="*", default=[], metavar="RECIPE", help="recipes to train instead")
    parser.add_argument("--data", help="data of the whole runs")
    parser.add_argument("--backbone_weights", help="weights of the whole runs, a safetensors file")
    parser.add_argument("--label_embeddings", help="label embeddings of the whole runs, a safetensors file")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent / "results" / "train_throughput.csv", help="CSV file"
    )
    arguments = parser.parse_args()
    there = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.device not in (None, there):
        hint = "set ACCELERATE_USE_CPU=true and CUDA_VISIBLE_DEVICES=''" if there == "cuda" else "there is no GPU"
        parser.error(f"--device {arguments.device} is not what Accelerate will use: {hint}.")
    environment = describe_environment()

    def add(row: dict) -> None:
        append_row(arguments.output, {column: row.get(column) for column in COLUMNS} | environment)
        print("  ".join(f"{key}={row[key]}" for key in COLUMNS if row.get(key) is not None), flush=True)

    for name in arguments.whole_run:
        with tempfile.TemporaryDirectory() as folder:
            add(whole_run(arguments, name, Path(folder)))
    if arguments.whole_run:
        return
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "noise"
        data.mkdir()
        write_noise(data, arguments.images, arguments.classes)
        for number, name in enumerate(arguments.loaders):
            own = Path(folder) / str(number)
            own.mkdir()
            add(measure(arguments, name, data, own))


if __name__ == "__main__":
    main()
