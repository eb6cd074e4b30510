# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Images a second from files to scores, against a bare forward loop of the same model, in turns in one run.

`bare` runs the model on batches that lie ready on its device, and fetches the logits at the end; nothing is decoded.
`stream` is `Predictor.stream`, from files to scores, start of its worker processes included; `file` is
`predict_to_file`, with parts and the joined Parquet file. Ratios are medians over the rounds of rate / rate of `bare`
in the same round. The model is CSSFE of random weights, whose speed is that of trained ones, or that of `--run`.
Images are those of benchmarks/loader.py (synthetic photographs as JPEG), repeated to the number asked for, or those of
`--images`.
"""

import argparse
import csv
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from loader import photograph

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.common.model_loading import load_trained_model
from modeling_cssfe.inference import Predictor, find_images, predict_to_file


PRELOADED = 8  # batches that the bare loop goes through again and again


def build(arguments) -> tuple[CSSFEForImageClassification, CSSFEImageProcessor]:
    if arguments.run:
        return load_trained_model(arguments.run)
    torch.manual_seed(0)
    model = CSSFEForImageClassification.from_backbone(
        arguments.backbone,
        label_names=[f"class {c}" for c in range(arguments.num_labels)],
        class_counts=[1 + 800 // (1 + c) for c in range(arguments.num_labels)],
        backbone_weights=False,
        label_embeddings="random",
        image_size=arguments.image_size,
    )
    return model, CSSFEImageProcessor.from_model_config(model.config)


def gather_files(arguments, folder: str) -> list[str]:
    if arguments.images:
        distinct = find_images([arguments.images])
    else:
        width, height = map(int, arguments.size.split("x"))
        distinct = [os.path.join(folder, f"{number}.jpg") for number in range(min(64, arguments.num_images))]
        for number, path in enumerate(distinct):
            Path(path).write_bytes(photograph(number, width, height))
    return (distinct * (arguments.num_images // len(distinct) + 1))[: arguments.num_images]


def bare_loop(predictor: Predictor, files: list[str]) -> Callable[[], None]:
    batches = [
        torch.cat([predictor.views(image)[0] for image in decoded])
        for decoded in decoded_batches(files[: PRELOADED * predictor.batch_size], predictor.batch_size)
    ]
    batches = [batch.to(predictor.device) for batch in batches]

    def run() -> None:
        logits, seen = [], 0
        with torch.inference_mode():
            while seen < len(files):
                batch = batches[len(logits) % len(batches)][: len(files) - seen]
                with predictor._autocast():
                    logits.append(predictor.model(pixel_values=batch).logits)
                seen += len(batch)
            torch.cat(logits).cpu()

    return run


def decoded_batches(files: list[str], batch_size: int) -> list[list]:
    from modeling_cssfe.data import decode_image

    decoded = [decode_image(file) for file in files]
    return [decoded[start : start + batch_size] for start in range(0, len(decoded), batch_size)]


def measure(arguments) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder:
        files = gather_files(arguments, folder)
        model, processor = build(arguments)
        options = {
            "batch_size": arguments.batch_size,
            "device": arguments.device,
            "mixed_precision": arguments.mixed_precision,
        }
        first = Predictor(model, processor, **options)
        variants: dict[str, Callable[[], None]] = {"bare": bare_loop(first, files)}
        for num_workers in arguments.num_workers:
            predictor = Predictor(model, processor, num_workers=num_workers, **options)
            variants[f"stream_{num_workers}_workers"] = lambda predictor=predictor: [*predictor.stream(files)] and None
        target = os.path.join(folder, "scores.parquet")
        variants[f"file_{num_workers}_workers"] = lambda: (
            predict_to_file(predictor, files, target, overwrite=True) and None
        )
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(-1, arguments.repeats):  # the first round warms up
            for name, run in variants.items():
                start = time.perf_counter()
                run()
                if turn >= 0:
                    rates[name].append(len(files) / (time.perf_counter() - start))
        rows = []
        for name, values in rates.items():
            ratio = statistics.median(value / bare for value, bare in zip(values, rates["bare"], strict=True))
            row = {
                "variant": name,
                "images_per_second": round(statistics.median(values), 1),
                "over_bare": round(ratio, 3),
                "backbone": model.config.backbone,
                "num_labels": model.config.num_labels,
                "image_size": "x".join(map(str, model.config.image_height_and_width)),
                "images": os.path.basename(os.path.normpath(arguments.images)) if arguments.images else arguments.size,
                "num_images": len(files),
                "batch_size": arguments.batch_size,
                "mixed_precision": arguments.mixed_precision,
                "device": first.device.type,
                "repeats": arguments.repeats,
            }
            rows.append(row)
            print("  ".join(f"{key}={value}" for key, value in list(row.items())[:6]), flush=True)
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
    parser.add_argument("--run", help="folder of a trained model, instead of random weights")
    parser.add_argument("--backbone", default="resnet50", help="of random weights")
    parser.add_argument("--num_labels", type=int, default=20, help="of random weights")
    parser.add_argument("--image_size", type=int, default=448, help="of random weights")
    parser.add_argument("--images", help="folder of images, instead of synthetic photographs")
    parser.add_argument("--size", default="500x375", help="of synthetic photographs")
    parser.add_argument("--num_images", type=int, default=512, help="images in a round")
    parser.add_argument("--batch_size", type=int, default=32, help="images a step")
    parser.add_argument("--num_workers", type=int, nargs="+", default=[0, 1], help="to measure; `file` takes the last")
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no", help="of the model")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median is taken")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "predict.csv")
    write_csv((arguments := parser.parse_args()).output, measure(arguments))


if __name__ == "__main__":
    main()
