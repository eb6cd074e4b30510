# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Images a second and core: this package's loader against plain decoding and the same transforms, in turns in one run.

The plain rows do what a short script does for each image, and nothing else: `pillow` opens the bytes with Pillow and
converts them to RGB, as torchvision's image folders do; `torchvision` calls `torchvision.io.decode_image`. Both apply
the same transforms, composed as torchvision's documentation does it, with the same results to the last bit (checked
before anything is timed), and put batches together with torch's `default_collate`. `loader` is
`build_data_loader` without workers (labels, checks, seeded augmentation and the data set's rows included);
`loader_cache` reads a decoded cache of the images' own size; `loader_draft` decodes with `training_draft_size`;
`loader_evaluation` and `pillow_evaluation` use a Hugging Face image processor instead.

The clock counts this process's CPU time, on one thread, so the rate is that of one core. Ratios are medians over the
rounds of rate / rate of a plain row in the same round. Images are synthetic photographs (noise of all scales, amplitude
falling as 1 / frequency) as JPEG of quality 90, or those of `--data`.
"""

import argparse
import csv
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import default_collate
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as torchvision_decode
from torchvision.transforms import v2

from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.data import EvaluationTransform, build_data_loader, build_train_transform, load_images
from modeling_cssfe.data.readers.records import image_features
from modeling_cssfe.data.transforms import AUGMENTATIONS, training_draft_size


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PLAIN = ("pillow", "torchvision")


def photograph(seed: int, width: int, height: int) -> bytes:
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(height), np.fft.rfftfreq(width), indexing="ij")
    amplitude = 1 / np.maximum(np.hypot(fx, fy), 1 / max(width, height))
    shared = rng.random(amplitude.shape)  # most of a photograph's contrast is in its brightness
    channels = []
    for _ in range(3):
        phases = np.exp(2j * np.pi * (shared + 0.1 * rng.random(amplitude.shape)))
        channel = np.fft.irfft2(amplitude * phases, (height, width))
        channels.append(128 + 45 * channel / channel.std())
    buffer = io.BytesIO()
    Image.fromarray(np.stack(channels, axis=-1).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def synthetic(count: int, width: int, height: int) -> datasets.Dataset:
    rows = {
        "image_id": [str(n) for n in range(count)],
        "image": [{"bytes": photograph(n, width, height), "path": None} for n in range(count)],
        "labels": [[n % 20] for n in range(count)],
    }
    return datasets.Dataset.from_dict(rows, features=image_features([f"class {c}" for c in range(20)]))


def decode_with_pillow(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def decode_with_torchvision(data: bytes) -> torch.Tensor:
    return torchvision_decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def plain(encoded: list[bytes], decode: Callable, transform: Callable, batch_size: int) -> Iterator[torch.Tensor]:
    for start in range(0, len(encoded), batch_size):
        yield default_collate([transform(decode(data)) for data in encoded[start : start + batch_size]])


def compose(image_size: int, augmentation: str) -> v2.Compose:
    policies = {"auto": [v2.AutoAugment()], "rand": [v2.RandAugment()], "trivial": [v2.TrivialAugmentWide()]}
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(image_size, scale=(0.5, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            *policies.get(augmentation, []),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )


def check_equal(encoded: list[bytes], ours: Callable, theirs: Callable) -> None:
    for seed, data in enumerate(encoded[:8]):
        pixels = []
        for transform in (ours, theirs):
            torch.manual_seed(seed)
            pixels.append(transform(decode_with_pillow(data)))
        if not torch.equal(*pixels):
            raise RuntimeError(f"the transforms differ on image {seed}: this torchvision composes them in another way.")


def build_variants(data: datasets.Dataset, arguments, cache_dir: str) -> dict[str, Callable[[], object]]:
    from transformers import CLIPImageProcessor

    size, batch_size = arguments.image_size, arguments.batch_size
    encoded = [row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes() for row in data]
    transform = build_train_transform(size, MEAN, STD, augmentation=arguments.augmentation)
    composed = compose(size, arguments.augmentation)
    check_equal(encoded, transform, composed)
    processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})
    evaluation = EvaluationTransform(processor)
    options = {"batch_size": batch_size}
    loaders = {
        "loader": build_data_loader(data, transform, **options),
        "loader_cache": build_data_loader(data, transform, decoded_cache=cache_dir, **options),
        "loader_draft": build_data_loader(data, transform, draft_size=training_draft_size(size), **options),
        "loader_evaluation": build_data_loader(data, evaluation, **options),
    }
    return {
        "pillow": lambda: plain(encoded, decode_with_pillow, composed, batch_size),
        "torchvision": lambda: plain(encoded, decode_with_torchvision, composed, batch_size),
        "pillow_evaluation": lambda: plain(encoded, decode_with_pillow, evaluation, batch_size),
    } | {name: (lambda loader=loader: iter(loader)) for name, loader in loaders.items()}


def rate(variant: Callable[[], object], count: int, seed: int) -> float:
    torch.manual_seed(seed)
    start = time.process_time()
    for _ in variant():
        pass
    return count / (time.process_time() - start)


def measure(name: str, data: datasets.Dataset, arguments) -> list[dict]:
    with tempfile.TemporaryDirectory() as cache_dir:
        variants = build_variants(data, arguments, cache_dir)
        rates: dict[str, list[float]] = {variant: [] for variant in variants}
        for turn in range(-1, arguments.repeats):  # the first round warms up
            for variant, run in variants.items():
                measured = rate(run, len(data), turn + 1)
                if turn >= 0:
                    rates[variant].append(measured)
    rows = []
    for variant, values in rates.items():
        bases = ("pillow_evaluation",) if variant.endswith("evaluation") else PLAIN
        ratios = {
            base: round(statistics.median(value / other for value, other in zip(values, rates[base], strict=True)), 3)
            for base in bases
        }
        row = {
            "images": name,
            "variant": variant,
            "augmentation": arguments.augmentation if not variant.endswith("evaluation") else "",
            "image_size": arguments.image_size,
            "images_per_second_and_core": round(statistics.median(values), 1),
            "over_pillow": ratios.get("pillow", ratios.get("pillow_evaluation")),
            "over_torchvision": ratios.get("torchvision"),
            "num_images": len(data),
            "batch_size": arguments.batch_size,
            "repeats": arguments.repeats,
        }
        rows.append(row)
        print("  ".join(f"{key}={value}" for key, value in list(row.items())[:7]), flush=True)
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
    parser.add_argument("--data", help="a data set as load_images takes it, instead of synthetic photographs")
    parser.add_argument("--split", default="train", help="split of --data")
    parser.add_argument("--sizes", nargs="*", default=["500x375", "1600x1200"], help="of synthetic photographs")
    parser.add_argument("--num_images", type=int, default=96, help="images in a round")
    parser.add_argument("--image_size", type=int, default=224, help="what the model takes")
    parser.add_argument("--augmentation", choices=AUGMENTATIONS, default="auto", help="of the training transform")
    parser.add_argument("--batch_size", type=int, default=16, help="images in a batch")
    parser.add_argument("--repeats", type=int, default=9, help="rounds; the median is taken")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "loader.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    rows = []
    if arguments.data:
        data = load_images(arguments.data)[arguments.split]
        rows += measure(Path(arguments.data).name, data.select(range(min(arguments.num_images, len(data)))), arguments)
    else:
        for size in arguments.sizes:
            width, height = map(int, size.split("x"))
            rows += measure(f"synthetic {size}", synthetic(arguments.num_images, width, height), arguments)
    write_csv(arguments.output, rows)


if __name__ == "__main__":
    main()
