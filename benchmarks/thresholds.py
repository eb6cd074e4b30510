# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What thresholds and calibration are worth: fitted on a part of the validation photographs, judged on the rest.

A Net-0 head on frozen features (see loss_table.py), trained with each loss and seed, scores the validation images.
These are split into a part for fitting and the rest for judging, several times at random and with every class's share
kept. Macro F1 and calibration error are of the images that nothing was fitted on. The test split is not looked at.
"""

import argparse
import csv
import math
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from loss_table import extract
from rich.table import Table
from torch import nn
from tqdm.auto import tqdm

from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.common.tables import show
from modeling_cssfe.data import class_statistics, label_names_of, load_images
from modeling_cssfe.data.stratification import stratified_split
from modeling_cssfe.evaluation.calibration import apply_calibration, calibration_errors, fit_calibration
from modeling_cssfe.evaluation.score_table import ScoreTable
from modeling_cssfe.evaluation.thresholds import choose_thresholds
from modeling_cssfe.losses import build_loss


COLUMNS = ("total", "head", "medium", "tail")
SHRINKAGES = (0.0, 2.0, 5.0, 10.0, 20.0, math.inf)


def score_validation(tensors, loss_name: str, seed: int, counts, arguments) -> np.ndarray:
    """Scores of the validation images by a head that was trained on the training features."""
    torch.manual_seed(seed)
    features, labels = tensors["train_features"], tensors["train_labels"]
    head = nn.Linear(features.shape[1], len(counts))
    loss = build_loss(loss_name, class_counts=counts, num_samples=len(features))
    optimizer = torch.optim.AdamW(head.parameters(), lr=arguments.learning_rate, weight_decay=1e-4)
    updates = len(features) // arguments.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, arguments.learning_rate, total_steps=arguments.epochs * updates
    )
    for epoch in range(arguments.epochs):
        if hasattr(loss, "set_epoch"):
            loss.set_epoch(epoch, arguments.epochs)
        for rows in torch.randperm(len(features))[: updates * arguments.batch_size].split(arguments.batch_size):
            optimizer.zero_grad()
            loss(head(features[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        return head(tensors["validation_features"]).double().sigmoid().numpy()


def macro_f1(table: ScoreTable, thresholds) -> list[float]:
    """Percent, over all classes and over head, medium and tail."""
    decided, positive = table.scores >= np.array(thresholds), table.labels == 1
    f1 = 2 * (decided & positive).sum(axis=0) / ((decided & (table.labels >= 0)).sum(axis=0) + positive.sum(axis=0))
    groups = np.array(table.groups)
    return [100 * f1.mean(), *(100 * f1[groups == group].mean() for group in COLUMNS[1:])]


def judge(fitting: ScoreTable, judged: ScoreTable) -> dict[tuple[str, str], list[float]]:
    """(figure, rule) -> percents, for one split into fitting and judging images."""
    chosen = {k: choose_thresholds(fitting, shrinkage=k, num_resamples=0) for k in SHRINKAGES}
    classes = len(fitting.label_names)
    rules = {".5": [0.5] * classes, "one threshold for all": [chosen[0.0].overall] * classes}
    for k, choice in chosen.items():
        name = {0.0: "per class, not shrunk", math.inf: "one a group"}.get(k, f"per class, k = {k:g}")
        rules[name] = choice.thresholds
    found = {("macro F1", name): macro_f1(judged, thresholds) for name, thresholds in rules.items()}
    half = np.array(found["macro F1", ".5"])
    found |= {("F1 gained over .5", name): (np.array(found["macro F1", name]) - half).tolist() for name in rules}
    probabilities = {"as they are": judged.scores}
    for name, bias in (("temperature", False), ("temperature and bias", True)):
        parameters = fit_calibration(fitting, bias=bias).parameters
        probabilities[name] = apply_calibration(judged.scores, judged.groups, parameters)
    for name, values in probabilities.items():
        errors = calibration_errors(judged, values)
        found["ECE", name] = [100 * errors[column] for column in COLUMNS]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of Parquet files with train and validation")
    parser.add_argument("--cache", type=Path, required=True, help="safetensors file for the features")
    parser.add_argument("--backbone_weights", help="safetensors file; needed unless the cache exists")
    parser.add_argument("--backbone", default="resnet50", help="timm architecture of the features")
    parser.add_argument("--stride_in_first_convolution", action="store_true", help="the 2015 layout of ResNet-50")
    parser.add_argument("--image_size", type=int, default=320, help="image side in pixels")
    parser.add_argument("--losses", nargs="+", default=["asl", "bce", "db"], help="losses of the heads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the heads")
    parser.add_argument("--repeats", type=int, default=10, help="random splits of the validation images")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.2, 0.1, 0.05], help="images to fit on")
    parser.add_argument("--epochs", type=int, default=15, help="passes over the training images")
    parser.add_argument("--batch_size", type=int, default=32, help="images an update")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    arguments = parser.parse_args()
    if not arguments.cache.is_file() and not arguments.backbone_weights:
        parser.error(f"there is no {arguments.cache}; give --backbone_weights to compute the features.")
    train_data = load_images(arguments.data)["train"]
    names = tuple(label_names_of(train_data))
    counts = tuple(class_statistics(train_data, names).class_counts)
    tensors = extract(Namespace(**vars(arguments)))
    labels = tensors["validation_labels"].numpy()
    environment = describe_environment()

    results = defaultdict(list)
    for loss in arguments.losses:
        for seed in tqdm(arguments.seeds, desc=loss):
            scores = score_validation(tensors, loss, seed, counts, arguments)
            table = ScoreTable(loss, tuple(map(str, range(len(labels)))), names, scores, labels, counts)
            for share in arguments.shares:
                for repeat in range(arguments.repeats):
                    parts = stratified_split(labels, [share, 1 - share], seed=repeat)
                    for key, values in judge(*map(table.select, parts)).items():
                        results[(loss, share, *key)].append(values)

    rows, shown = [], Table("loss", "fitted on", "figure", "rule", *COLUMNS, title="percent, mean and std")
    for (loss, share, figure, rule), values in results.items():
        row = {"loss": loss, "fitted_on": share, "figure": figure, "rule": rule, "runs": len(values)}
        mean, std = np.mean(values, axis=0), np.std(values, axis=0, ddof=min(1, len(values) - 1))
        for column, average, deviation in zip(COLUMNS, mean, std, strict=True):
            row |= {column: round(float(average), 2), f"{column}_std": round(float(deviation), 2)}
        rows.append(row)
        shown.add_row(loss, f"{share:g}", figure, rule, *(f"{row[c]:.1f} ± {row[f'{c}_std']:.1f}" for c in COLUMNS))
    settings = {
        key: getattr(arguments, key) for key in ("backbone", "image_size", "epochs", "batch_size", "learning_rate")
    } | {"head_seeds": len(arguments.seeds), "repeats": arguments.repeats}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    with arguments.output.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=[*rows[0], *settings, *environment])
        writer.writeheader()
        writer.writerows(row | settings | environment for row in rows)
    show(shown)


if __name__ == "__main__":
    main()
