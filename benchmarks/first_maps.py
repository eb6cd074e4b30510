"""Do names of classes tell which maps to mix? First maps in closed form that borrow from neighbours or take them off.

Row c of the discriminant (`modeling_cssfe.training.discriminant`) becomes `W_c + share * sum_b S_cb W_b`, with S the
softmax over all other classes b of the cosines of the centred label embeddings over a temperature. A positive share
borrows from classes with similar names, as the enhancement does; a negative one takes them off. Nothing is trained, so
a row takes a second. Judged on validation; the cache is that of `accuracy.py`.
"""

import argparse
from pathlib import Path

import torch
from ablations import append_row
from accuracy import COLUMNS, DEFAULTS
from frozen_maps import add_backbone_arguments, extract, load_backbone

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.common.environment import describe_environment
from modeling_cssfe.data import class_statistics, label_names_of, load_images
from modeling_cssfe.data.stratification import stratified_split
from modeling_cssfe.label_embeddings import resolve_label_embeddings
from modeling_cssfe.metrics import long_tail_map
from modeling_cssfe.training.discriminant import DiscriminantStatistics, likeness
from modeling_cssfe.training.pretrained_classifier import load_pretrained_classifier


SHARES = (0.5, 0.25, 0.0, -0.25, -0.5, -0.75)
TEMPERATURES = (0.1, 0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_backbone_arguments(parser)
    parser.add_argument("--label_embeddings", nargs="+", default=[], metavar="NAME=FILE", help="safetensors files")
    parser.add_argument("--random", type=int, default=5, help="how many random embeddings to compare with")
    parser.add_argument("--cache", required=True, help="folder for the feature maps, some gigabytes")
    parser.add_argument("--output", type=Path, required=True, help="CSV file")
    arguments = parser.parse_args()
    arguments.last_stage = None
    train_data = load_images(arguments.data)["train"]
    names = label_names_of(train_data)
    counts = list(class_statistics(train_data, names).class_counts)
    embeddings = {}
    for pair in arguments.label_embeddings:
        name, _, file = pair.partition("=")
        embeddings[name] = resolve_label_embeddings(file, names)[0]
    for seed in range(arguments.random):
        embeddings[f"random{seed}"] = resolve_label_embeddings("random", names, seed=seed)[0]

    config, backbone, _ = load_backbone(arguments)
    whole = CSSFEForImageClassification(CSSFEConfig(backbone=arguments.backbone, ablation="net0"))
    classifier = load_pretrained_classifier(whole, arguments.backbone_weights)
    statistics = DiscriminantStatistics(backbone.num_features, len(names), classifier=classifier)
    for view in extract(arguments, config, backbone, "train", DEFAULTS["views"]).values():
        for maps, labels in zip(view["features"].split(64), view["labels"].split(64), strict=True):
            statistics.update(maps.float().mean(dim=(2, 3)), labels)
    weight, _ = statistics.solve()
    statistics.classifier = None
    alone, _ = statistics.solve()
    judged = extract(arguments, config, backbone, "validation", ["plain"])["plain"]
    features = torch.cat([maps.float().mean(dim=(2, 3)) for maps in judged["features"].split(64)])
    labels = judged["labels"].numpy()
    halves = stratified_split(labels, [len(labels) // 2, len(labels) - len(labels) // 2], seed=0)

    environment = describe_environment()

    def judge(row: dict, directions: torch.Tensor) -> None:
        scores = (features @ directions.T).double().sigmoid().numpy()
        for part, chosen in {"": slice(None), "_a": halves[0], "_b": halves[1]}.items():
            result = long_tail_map(scores[chosen], labels[chosen], counts, label_names=names)
            row |= {f"{column}{part}": round(result[column], 4) for column in COLUMNS}
        append_row(arguments.output, row | {"image_size": arguments.image_size} | environment)
        print("  ".join(f"{key}={row[key]}" for key in list(row)[: 4 + len(COLUMNS)]), flush=True)

    judge({"label_embeddings": "none", "classifier": False, "temperature": "", "share": 0.0}, alone)
    for name, rows in embeddings.items():
        for temperature in TEMPERATURES:
            neighbours = likeness(rows, temperature).float() @ weight
            for share in SHARES:
                row = {"label_embeddings": name, "classifier": True, "temperature": temperature, "share": share}
                judge(row, weight + share * neighbours)


if __name__ == "__main__":
    main()
