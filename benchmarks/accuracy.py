"""Which part of the method is worth what: heads on cached feature maps of photographs, one factor at a time.

A trial is a row of `accuracy_trials.yaml`: what it changes of the defaults. Each is trained with several seeds and
judged on validation, whole and in two halves (stratified, fixed): a choice made on one half can be confirmed on the
other. A row is written after each run; runs whose row exists are skipped. The test split is not looked at.
"""

import argparse
import copy
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from ablations import append_row, read_rows
from frozen_maps import Head, add_backbone_arguments, extract, load_backbone, run_stage
from head_variants import VARIANTS

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification
from modeling_cssfe.common.environment import build_accelerator, computes_in_bf16, describe_environment
from modeling_cssfe.data import class_statistics, label_names_of, load_images
from modeling_cssfe.data.stratification import stratified_split
from modeling_cssfe.label_embeddings import resolve_label_embeddings
from modeling_cssfe.losses import build_loss
from modeling_cssfe.metrics import long_tail_map
from modeling_cssfe.samplers import build_sampler
from modeling_cssfe.training.discriminant import initialize_class_activation
from modeling_cssfe.training.pretrained_classifier import load_pretrained_classifier


COLUMNS = ("map_total", "map_head", "map_medium", "map_tail")
DEFAULTS = {
    "ablation": "net3",
    "label_embeddings": "clip",
    "views": ["plain", "flip", "crop0", "crop1", "crop2", "crop3"],
    "loss": "asl",
    "loss_kwargs": {},
    "sampler": "uniform",
    "epochs": 15,
    "batch_size": 32,
    "learning_rate": 5e-4,
    "stage_learning_rate": 0.0,
    "weight_decay": 1e-2,
    "ema": 0.0,
    "label_smoothing": 0.0,
    "class_activation_init": "random",
    "first_look": None,  # views that it looks at; the trial's by default, as the first series had it
    "classifier_describes": True,  # whether what the pretrained classifier says describes an image to the discriminant
    "variant": None,
    "config": {},
}


def first_batches(trial: dict, views: dict, stage) -> Iterator[dict]:
    """The maps that first maps in closed form follow from, with their labels."""
    for view in trial["first_look"] or trial["views"]:
        for maps, labels in zip(views[view]["features"].split(64), views[view]["labels"].split(64), strict=True):
            if stage is not None:
                with torch.no_grad():
                    maps = run_stage(stage, maps)
            yield {"pixel_values": maps.float(), "labels": labels}


def build_head(trial: dict, seed: int, views: dict, data: dict, embeddings: dict, stage) -> Head:
    torch.manual_seed(seed)
    config = CSSFEConfig(
        backbone="test_resnet",
        image_size=32 * data["map_shape"][1],
        feature_size=data["map_shape"][0],
        label_names=data["names"],
        class_counts=data["counts"],
        ablation=trial["ablation"],
        label_embedding_dim=embeddings[trial["label_embeddings"]].shape[1],
        **trial["config"],
    )
    head = Head(config, embeddings[trial["label_embeddings"]], copy.deepcopy(stage))
    classifier = data["classifier"] if trial["class_activation_init"] == "discriminant_and_classifier" else None
    if classifier is not None and head.model.discriminant is not None and trial["classifier_describes"]:
        head.model.set_pretrained_classifier(classifier.weight, classifier.bias)
    if trial["variant"] is not None:
        VARIANTS[trial["variant"]](head)
    if trial["class_activation_init"] != "random":
        batches = first_batches(trial, views, stage)
        initialize_class_activation(head.model, batches, build_accelerator("no"), classifier=classifier)
    return head.train()


def train_head(trial: dict, seed: int, views: dict, data: dict, embeddings: dict, stage) -> Head:
    head = build_head(trial, seed, views, data, embeddings, stage)
    labels, counts = views["plain"]["labels"], data["counts"]
    loss = build_loss(trial["loss"], class_counts=counts, num_samples=len(labels), **trial["loss_kwargs"])
    head.model.set_loss(loss)
    sampler = build_sampler(trial["sampler"], labels=labels.numpy(), seed=seed)
    if stage is not None:
        head.stage.requires_grad_(trial["stage_learning_rate"] > 0)
    groups: dict[tuple[bool, bool], list] = {}
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("stage."), parameter.ndim > 1), []).append(parameter)
    rates = {True: trial["stage_learning_rate"], False: trial["learning_rate"]}
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "lr": rates[of_stage], "weight_decay": trial["weight_decay"] * decays}
            for (of_stage, decays), parameters in groups.items()
        ],
        fused=True,
    )
    updates = trial["epochs"] * (len(labels) // trial["batch_size"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=updates
    )
    average = torch.optim.swa_utils.AveragedModel(
        head, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(trial["ema"])
    )
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    epoch = 0
    for update in range(updates):
        if hasattr(loss, "set_epoch"):
            loss.set_epoch(update * trial["epochs"] // updates, trial["epochs"])
        while len(order) < trial["batch_size"]:
            sampler.set_epoch(epoch)
            order += list(sampler)
            epoch += 1
        rows, order = order[: trial["batch_size"]], order[trial["batch_size"] :]
        chosen = torch.randint(len(trial["views"]), (len(rows),), generator=generator).tolist()
        features = torch.stack(
            [views[trial["views"][view]]["features"][row] for row, view in zip(rows, chosen, strict=True)]
        )
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=computes_in_bf16("cpu")):
            value = head(features, labels[rows] + trial["label_smoothing"] * (0.5 - labels[rows])).loss
        value.backward()
        optimizer.step()
        schedule.step()
        if trial["ema"]:
            average.update_parameters(head)
    return (average.module if trial["ema"] else head).eval()


@torch.no_grad()
def score(head: Head, features: torch.Tensor) -> torch.Tensor:
    return torch.cat([head(part).logits for part in features.split(64)]).double().sigmoid()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_backbone_arguments(parser)
    parser.add_argument(
        "--last_stage", help="part of the timm model that a trial may train: the cache then ends before it"
    )
    parser.add_argument("--label_embeddings", nargs="+", default=[], metavar="NAME=FILE", help="safetensors files")
    parser.add_argument(
        "--trials", type=Path, default=Path(__file__).with_name("accuracy_trials.yaml"), help="what to try"
    )
    parser.add_argument("--only", nargs="+", help="names of trials")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="seeds of each")
    parser.add_argument("--cache", required=True, help="folder for the feature maps, some gigabytes")
    parser.add_argument("--output", type=Path, required=True, help="CSV file; runs that are in it are skipped")
    arguments = parser.parse_args()
    trials = yaml.safe_load(arguments.trials.read_text())
    train_data = load_images(arguments.data)["train"]
    names = label_names_of(train_data)
    counts = list(class_statistics(train_data, names).class_counts)
    embeddings = {"random": resolve_label_embeddings("random", names)[0], "none": torch.zeros(len(names), 1)}
    for pair in arguments.label_embeddings:
        name, _, file = pair.partition("=")
        embeddings[name] = resolve_label_embeddings(file, names)[0]
    wanted = [name for name in trials if arguments.only is None or name in arguments.only]
    used = sorted({view for name in wanted for view in {**DEFAULTS, **(trials[name] or {})}["views"]} | {"plain"})
    config, backbone, stage = load_backbone(arguments)
    views = extract(arguments, config, backbone, "train", used)
    judged = extract(arguments, config, backbone, "validation", ["plain", "flip"])
    sample = views["plain"]["features"][:1]
    shape = (sample if stage is None else run_stage(stage, sample)).shape
    whole = CSSFEForImageClassification(CSSFEConfig(backbone=arguments.backbone, ablation="net0"))
    classifier = load_pretrained_classifier(whole, arguments.backbone_weights)
    data = {"names": names, "counts": counts, "map_shape": tuple(shape[1:3]), "classifier": classifier}
    labels = judged["plain"]["labels"].numpy()
    halves = stratified_split(labels, [len(labels) // 2, len(labels) - len(labels) // 2], seed=0)
    environment = describe_environment()
    for seed in arguments.seeds:
        for name in wanted:
            done = {(row["trial"], row["seed"], row["image_size"]) for row in read_rows(arguments.output)}
            if (name, str(seed), str(arguments.image_size)) in done:
                continue
            trial = {**DEFAULTS, **(trials[name] or {})}
            started = time.perf_counter()
            head = train_head(trial, seed, views, data, embeddings, stage)
            plain, flipped = (score(head, judged[view]["features"]).numpy() for view in ("plain", "flip"))
            row = {"trial": name, "seed": seed}
            parts = {"": (plain, slice(None)), "_a": (plain, halves[0]), "_b": (plain, halves[1])}
            # Test-time augmentation: the mean of the probabilities of an image and its mirror image.
            parts["_flip"] = ((plain + flipped) / 2, slice(None))
            for part, (scores, rows) in parts.items():
                result = long_tail_map(scores[rows], labels[rows], counts, label_names=names)
                row |= {f"{column}{part}": round(result[column], 4) for column in COLUMNS}
            row |= {"seconds": round(time.perf_counter() - started, 1), "image_size": arguments.image_size}
            row |= {"changes": yaml.safe_dump(trials[name] or {}, default_flow_style=True, width=10_000).strip()}
            append_row(arguments.output, row | environment)
            print("  ".join(f"{key}={row[key]}" for key in ("trial", "seed", *COLUMNS, "seconds")), flush=True)


if __name__ == "__main__":
    main()
