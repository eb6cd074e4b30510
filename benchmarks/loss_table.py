"""Which loss helps the tail, and what it costs the head: every loss and two samplers on frozen features of photographs.

Features are extracted once (timm backbone, the image processor's preprocessing) and averaged over positions. Net-0's
logit is the mean of a 1x1 convolution of the features, which is the same convolution of their mean: a Net-0 head on
averaged features is exact, and trains in seconds. The test split is not looked at.
"""

import argparse
import csv
import statistics
import warnings
from pathlib import Path

import torch
from frozen_maps import add_backbone_arguments
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm.auto import tqdm

from modeling_cssfe import CSSFEConfig, CSSFEImageProcessor
from modeling_cssfe.backbone_cssfe import CSSFEBackbone, load_backbone_weights
from modeling_cssfe.common.environment import computes_in_bf16, describe_environment
from modeling_cssfe.common.tables import show
from modeling_cssfe.data import EvaluationTransform, build_data_loader, class_statistics, label_names_of, load_images
from modeling_cssfe.losses import build_loss, list_losses
from modeling_cssfe.metrics import long_tail_map
from modeling_cssfe.samplers import build_sampler


COLUMNS = ("map_total", "map_head", "map_medium", "map_tail")


@torch.no_grad()
def extract(arguments) -> dict[str, torch.Tensor]:
    """Mean features and labels of train and validation, cached in one safetensors file."""
    if arguments.cache.is_file():
        return load_file(arguments.cache)
    config = CSSFEConfig(backbone=arguments.backbone, image_size=arguments.image_size, ablation="net0")
    backbone = CSSFEBackbone(config)
    load_backbone_weights(backbone, arguments.backbone_weights)
    if arguments.stride_in_first_convolution:
        for stage in ("layer2", "layer3", "layer4"):
            block = getattr(backbone.timm_model, stage)[0]
            block.conv1.stride, block.conv2.stride = (2, 2), (1, 1)
    backbone.eval().to(memory_format=torch.channels_last)
    transform = EvaluationTransform(CSSFEImageProcessor.from_model_config(config))
    tensors = {}
    for split, data in load_images(arguments.data).items():
        if split not in ("train", "validation"):
            continue
        features, labels = [], []
        for batch in tqdm(
            build_data_loader(data, transform, batch_size=16, num_workers=1), desc=f"features of {split}"
        ):
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_in_bf16("cpu")):
                maps = backbone(batch["pixel_values"].contiguous(memory_format=torch.channels_last))
            features.append(maps.float().mean(dim=(2, 3)))
            labels.append(batch["labels"])
        tensors |= {f"{split}_features": torch.cat(features), f"{split}_labels": torch.cat(labels)}
    arguments.cache.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, arguments.cache)
    return tensors


def train_head(tensors, loss_name: str, sampler_name: str, seed: int, counts, names, arguments) -> dict[str, float]:
    torch.manual_seed(seed)
    features, labels = tensors["train_features"], tensors["train_labels"]
    head = nn.Linear(features.shape[1], len(names))
    loss = build_loss(loss_name, class_counts=counts, num_samples=len(features))
    sampler = build_sampler(sampler_name, labels=labels.numpy(), seed=seed)
    optimizer = torch.optim.AdamW(head.parameters(), lr=arguments.learning_rate, weight_decay=1e-4)
    # Samplers differ in the length of an epoch; every run gets the same number of updates.
    updates = arguments.epochs * (len(features) // arguments.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, arguments.learning_rate, total_steps=updates)
    epoch, order = 0, []
    for update in range(updates):
        if hasattr(loss, "set_epoch"):
            loss.set_epoch(update * arguments.epochs // updates, arguments.epochs)
        while len(order) < arguments.batch_size:
            sampler.set_epoch(epoch)
            order += list(sampler)
            epoch += 1
        rows, order = order[: arguments.batch_size], order[arguments.batch_size :]
        optimizer.zero_grad()
        loss(head(features[rows]), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        scores = head(tensors["validation_features"]).double().sigmoid().numpy()
    return long_tail_map(scores, tensors["validation_labels"].numpy(), counts, label_names=names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_backbone_arguments(parser)
    parser.add_argument("--losses", nargs="+", default=list_losses(), help="losses to compare")
    parser.add_argument("--samplers", nargs="+", default=["uniform", "class_aware"], help="samplers to compare")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of each")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training images")
    parser.add_argument("--batch_size", type=int, default=32, help="images an update")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--cache", type=Path, required=True, help="safetensors file for the features")
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    arguments = parser.parse_args()
    train_data = load_images(arguments.data)["train"]
    names = label_names_of(train_data)
    counts = list(class_statistics(train_data, names).class_counts)
    tensors = extract(arguments)
    environment = describe_environment()
    table = Table(
        "loss", "sampler", "total", "head", "medium", "tail", title="validation mAP (%), mean and std of seeds"
    )
    rows = []
    for sampler in arguments.samplers:
        for loss in tqdm(arguments.losses, desc=sampler):
            results = [train_head(tensors, loss, sampler, seed, counts, names, arguments) for seed in arguments.seeds]
            row = {"loss": loss, "sampler": sampler, "seeds": len(results)}
            for column in COLUMNS:
                values = [100 * result[column] for result in results]
                row[column] = round(statistics.mean(values), 2)
                row[f"{column}_std"] = round(statistics.stdev(values), 2) if len(values) > 1 else ""
            rows.append(row)
            table.add_row(loss, sampler, *(f"{row[key]:.1f} +- {row[f'{key}_std']}" for key in COLUMNS))
    settings = {key: getattr(arguments, key) for key in ("backbone", "image_size", "epochs", "batch_size")}
    settings["learning_rate"] = arguments.learning_rate
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *settings, *environment])
        writer.writeheader()
        writer.writerows(row | settings | environment for row in rows)
    show(table)


if __name__ == "__main__":
    warnings.simplefilter("default")
    main()
