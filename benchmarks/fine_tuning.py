"""Which settings classify photographs best: whole networks trained on a GPU, one factor at a time, seconds a run.

A trial is a row of `fine_tuning_trials.yaml`: what it changes of the defaults. The images are decoded once and stay on
the device, where they are cropped, flipped and recoloured in batches; a backbone learning rate of 0 freezes the
backbone. Each trial is trained with several seeds and judged on validation, whole and in two halves (stratified,
fixed). A row is written after each run; runs whose row exists are skipped. The test split is not looked at.
"""

import argparse
import itertools
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torchvision
import yaml
from ablations import append_row, read_rows
from accelerate import Accelerator
from photographs import Photographs
from torch.nn import functional as F
from tqdm.auto import tqdm

from modeling_cssfe import CSSFEForImageClassification
from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.data.stratification import stratified_split
from modeling_cssfe.losses import build_loss
from modeling_cssfe.metrics import long_tail_map
from modeling_cssfe.samplers import build_sampler
from modeling_cssfe.training.discriminant import initialize_class_activation
from modeling_cssfe.training.pretrained_classifier import load_pretrained_classifier


COLUMNS = ("map_total", "map_head", "map_medium", "map_tail")
DEFAULTS = {
    "ablation": "net3",
    "label_embeddings": "clip",
    "image_size": 448,
    "crop_scale": [0.4, 1.0],
    "colour": 0.0,
    "mixup": 0.0,
    "loss": "asl",
    "loss_kwargs": {},
    "sampler": "uniform",
    "epochs": 8,
    "batch_size": 32,
    "learning_rate": 5e-4,
    "backbone_learning_rate": 0.0,
    "weight_decay": 1e-2,
    "ema": 0.98,
    "class_activation_init": "random",
    "config": {},
}


def decode_squares(images: list[bytes], size: int, device: str) -> torch.Tensor:
    """Decode files and squeeze each to a square, `(N, 3, size, size)` uint8 on the device."""

    def decode(data: bytes) -> torch.Tensor:
        buffer = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return torchvision.io.decode_image(buffer, mode=torchvision.io.ImageReadMode.RGB)

    squares = torch.empty(len(images), 3, size, size, dtype=torch.uint8, device=device)
    with ThreadPoolExecutor() as pool:
        for index, image in enumerate(tqdm(pool.map(decode, images), total=len(images), desc="decoding")):
            image = image[None].to(device).float()
            small = F.interpolate(image, (size, size), mode="bilinear", antialias=True, align_corners=False)
            squares[index] = small[0].round().clamp(0, 255).to(torch.uint8)
    return squares


def shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """Square uint8 images at the model's size, fp32 in [0, 1]."""
    return F.interpolate(images.float() / 255, (size, size), mode="bilinear", antialias=True, align_corners=False)


def augment(images: torch.Tensor, size: int, trial: dict, generator: torch.Generator) -> torch.Tensor:
    """Random resized crops, flips and colours of `(B, 3, S, S)` uint8 images; fp32 in [0, 1]."""

    def uniform(low: float, high: float) -> torch.Tensor:
        return torch.empty(len(images)).uniform_(low, high, generator=generator).to(images.device)

    area = uniform(*trial["crop_scale"])
    ratio = uniform(math.log(3 / 4), math.log(4 / 3)).exp()
    width = (area * ratio).sqrt().clamp(max=1)
    height = (area / ratio).sqrt().clamp(max=1)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(width)
    affine = torch.stack(
        [
            torch.stack([width * flip, zero, uniform(-1, 1) * (1 - width)], dim=1),
            torch.stack([zero, height, uniform(-1, 1) * (1 - height)], dim=1),
        ],
        dim=1,
    )
    grid = F.affine_grid(affine, [len(images), 3, size, size], align_corners=False)
    crops = F.grid_sample(images.float() / 255, grid, align_corners=False, padding_mode="reflection")
    if trial["colour"]:
        strength = trial["colour"]
        brightness, contrast, saturation = (uniform(1 - strength, 1 + strength)[:, None, None, None] for _ in range(3))
        crops = crops * brightness
        crops = (crops - crops.mean((1, 2, 3), keepdim=True)) * contrast + crops.mean((1, 2, 3), keepdim=True)
        grey = crops.mean(1, keepdim=True)
        crops = ((crops - grey) * saturation + grey).clamp(0, 1)
    return crops


def build_model(trial: dict, seed: int, photographs: Photographs, arguments) -> CSSFEForImageClassification:
    torch.manual_seed(seed)
    files = dict(pair.split("=", 1) for pair in arguments.label_embeddings)
    name = trial["label_embeddings"]
    model = CSSFEForImageClassification.from_backbone(
        arguments.backbone,
        label_names=photographs.label_names,
        class_counts=photographs.class_counts,
        num_samples=len(photographs.images["train"]),
        backbone_weights=arguments.backbone_weights,
        label_embeddings=files.get(name, name),
        seed=seed,
        image_size=trial["image_size"],
        ablation=trial["ablation"],
        stride_in_first_convolution=arguments.stride_in_first_convolution,
        **trial["config"],
    )
    return model.to(arguments.device, memory_format=torch.channels_last)


def batches(trial: dict, seed: int, labels: np.ndarray):
    """Batches of indices, epoch after epoch, without end."""
    sampler = build_sampler(trial["sampler"], labels=labels, seed=seed)
    rest: list[int] = []
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        rest += list(sampler)
        while len(rest) >= trial["batch_size"]:
            yield torch.tensor(rest[: trial["batch_size"]])
            rest = rest[trial["batch_size"] :]


def train(trial: dict, seed: int, images: torch.Tensor, photographs: Photographs, arguments):
    model = build_model(trial, seed, photographs, arguments)
    device = arguments.device
    targets = torch.from_numpy(photographs.labels["train"]).float().to(device)
    loss = build_loss(
        trial["loss"], class_counts=photographs.class_counts, num_samples=len(targets), **trial["loss_kwargs"]
    ).to(device)
    model.set_loss(loss)
    backbone = model.cssfe.backbone
    mean, std = (
        torch.tensor(value, device=device)[None, :, None, None]
        for value in (model.config.image_mean, model.config.image_std)
    )
    if trial["class_activation_init"] != "random":
        looks = (
            {"pixel_values": (shrink(batch, trial["image_size"]) - mean) / std, "labels": labels}
            for batch, labels in zip(images.split(64), targets.split(64), strict=True)
        )
        classifier = None
        if trial["class_activation_init"] == "discriminant_and_classifier":
            classifier = load_pretrained_classifier(model, arguments.backbone_weights)
            if model.discriminant is not None:
                model.set_pretrained_classifier(classifier.weight, classifier.bias)
        accelerator = Accelerator(mixed_precision="bf16", cpu=device == "cpu")
        initialize_class_activation(model, looks, accelerator, classifier=classifier)
    frozen = trial["backbone_learning_rate"] == 0
    backbone.requires_grad_(not frozen)
    groups: dict[tuple[bool, bool], list] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".backbone." in name, parameter.ndim > 1), []).append(parameter)
    rates = {True: trial["backbone_learning_rate"], False: trial["learning_rate"]}
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates[part], "weight_decay": trial["weight_decay"] * decays}
            for (part, decays), parameters in groups.items()
        ],
        fused=device == "cuda",
    )
    updates = trial["epochs"] * (len(targets) // trial["batch_size"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=updates, pct_start=0.1
    )
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(trial["ema"])
    )
    generator = torch.Generator().manual_seed(seed)
    model.train()
    backbone.eval()  # the statistics of BatchNorm stay as they were loaded
    order = batches(trial, seed, photographs.labels["train"])
    for update in range(updates):
        rows = next(order)
        pixels = augment(images[rows.to(device)], trial["image_size"], trial, generator)
        batch = targets[rows.to(device)]
        if trial["mixup"]:
            share = np.random.default_rng([seed, update]).beta(trial["mixup"], trial["mixup"])
            pixels, batch = share * pixels + (1 - share) * pixels.flip(0), torch.maximum(batch, batch.flip(0))
        pixels = ((pixels - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            value = model(pixels, labels=batch).loss
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        average.update_parameters(model)
    final = average.module if trial["ema"] else model
    return final.eval(), (mean, std)


@torch.no_grad()
def score(model, images: torch.Tensor, statistics, device: str) -> np.ndarray:
    scores = []
    for batch in images.split(128):
        pixels = ((batch.float() / 255 - statistics[0]) / statistics[1]).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            scores.append(model(pixels).logits.float().sigmoid())
    return torch.cat(scores).cpu().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="data with train and validation, or a file that --pack wrote")
    parser.add_argument("--pack", type=Path, help="write the images into this one file and stop")
    parser.add_argument("--backbone", default="resnet50", help="timm architecture")
    parser.add_argument("--backbone_weights", help="safetensors file")
    parser.add_argument(
        "--stride_in_first_convolution", action="store_true", help="the 2015 layout of ResNet-50, which Keras's has"
    )
    parser.add_argument("--label_embeddings", nargs="+", default=[], metavar="NAME=FILE", help="safetensors files")
    parser.add_argument(
        "--trials", type=Path, default=Path(__file__).with_name("fine_tuning_trials.yaml"), help="what to try"
    )
    parser.add_argument("--only", nargs="+", help="names of trials")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of each")
    parser.add_argument("--part", default="0/1", help="which share of the runs, for several processes at once")
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes")
    parser.add_argument("--device", default="cuda", help="torch device")
    parser.add_argument("--scores", type=Path, help="folder for every run's validation scores")
    parser.add_argument("--output", type=Path, help="CSV file; runs that are in it are skipped")
    arguments = parser.parse_args()
    photographs = Photographs.load(arguments.data)
    if arguments.pack:
        photographs.save(arguments.pack)
        return
    begun = time.perf_counter()
    torch.backends.cudnn.benchmark = True
    trials = yaml.safe_load(arguments.trials.read_text())
    wanted = [name for name in trials if arguments.only is None or name in arguments.only]
    part, parts = (int(number) for number in arguments.part.split("/"))
    runs = list(itertools.product(arguments.seeds, wanted))[part::parts]
    labels = photographs.labels["validation"]
    halves = stratified_split(labels, [len(labels) // 2, len(labels) - len(labels) // 2], seed=0)
    environment = describe_environment()
    squares: dict[tuple[str, int], torch.Tensor] = {}
    for seed, name in runs:
        if arguments.minutes and time.perf_counter() - begun > 60 * arguments.minutes:
            print(f"out of time before {name}, seed {seed}", flush=True)
            break
        if (name, str(seed)) in {(row["trial"], row["seed"]) for row in read_rows(arguments.output)}:
            continue
        trial = {**DEFAULTS, **(trials[name] or {})}
        size = trial["image_size"]
        for split, side in (("train", size * 8 // 7), ("validation", size)):
            if (split, side) not in squares:
                squares[split, side] = decode_squares(photographs.images[split], side, arguments.device)
        started = time.perf_counter()
        model, statistics = train(trial, seed, squares["train", size * 8 // 7], photographs, arguments)
        seconds = time.perf_counter() - started
        judged = squares["validation", size]
        plain = score(model, judged, statistics, arguments.device)
        flipped = score(model, judged.flip(-1), statistics, arguments.device)
        row = {"trial": name, "seed": seed}
        views = {"": (plain, slice(None)), "_a": (plain, halves[0]), "_b": (plain, halves[1])}
        # Test-time augmentation: the mean of the probabilities of an image and its mirror image.
        views["_flip"] = ((plain + flipped) / 2, slice(None))
        for view, (scores, rows) in views.items():
            result = long_tail_map(
                scores[rows], labels[rows], photographs.class_counts, label_names=photographs.label_names
            )
            row |= {f"{column}{view}": round(result[column], 4) for column in COLUMNS}
        row |= {"seconds": round(seconds, 1)}
        row |= {"changes": yaml.safe_dump(trials[name] or {}, default_flow_style=True, width=10_000).strip()}
        append_row(arguments.output, row | environment)
        if arguments.scores:
            arguments.scores.mkdir(parents=True, exist_ok=True)
            np.save(arguments.scores / f"{name}.{seed}.npy", np.stack([plain, flipped]))
        print("  ".join(f"{key}={row[key]}" for key in ("trial", "seed", *COLUMNS, "seconds")), flush=True)


if __name__ == "__main__":
    main()
