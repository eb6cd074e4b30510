"""A data set of coloured squares and a recipe that trains on it in seconds."""

import numpy as np
from PIL import Image


COLORS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200)}
# Images of each class in the training split: one head, one medium and one tail class with the bounds below.
TINY_COUNTS = {"blue": 3, "green": 8, "red": 14}
TINY_MODEL = ["model.head_min=12", "model.tail_max=6", "model.hidden_size=16", "model.intermediate_size=16",
              "model.attention_head_dim=4", "model.num_attention_heads=2"]  # fmt: skip


def make_scene(rng: np.random.Generator, names: list[str]) -> Image.Image:
    """A grey 48 px canvas with one square of each named colour."""
    canvas = rng.integers(90, 130, (48, 48, 3), dtype=np.uint8)
    for name in names:
        row, column = rng.integers(0, 32, 2)
        canvas[row : row + 16, column : column + 16] = COLORS[name]
    return Image.fromarray(canvas)


def write_parquet(folder, splits: dict[str, list[list[str]]], names=("blue", "green", "red")) -> None:
    """Parquet files with `datasets` features: `splits` maps a split to the label names of each of its images."""
    import datasets

    features = datasets.Features(
        image_id=datasets.Value("string"),
        image=datasets.Image(),
        labels=datasets.List(datasets.ClassLabel(names=list(names))),
    )
    rng = np.random.default_rng(0)
    for split, rows in splits.items():
        content = {
            "image_id": [f"{split}-{number}" for number in range(len(rows))],
            "image": [make_scene(rng, row) for row in rows],
            "labels": [[list(names).index(name) for name in row] for row in rows],
        }
        datasets.Dataset.from_dict(content, features=features).to_parquet(str(folder / f"{split}.parquet"))


def tiny_splits() -> dict[str, list[list[str]]]:
    train = [["red"]] * 7 + [["red", "green"]] * 6 + [["red", "blue"]] + [["green"]] * 2 + [["blue"]] * 2
    judged = [["red"], ["green"], ["blue"], ["red", "green"], ["blue", "green"], []] * 2
    return {"train": train, "validation": judged, "test": judged}


def tiny_overrides(data, **changes) -> list[str]:
    """`--set` arguments of a run that takes seconds."""
    settings = {
        "data": data,
        "backbone": "test_resnet",
        "backbone_weights": "false",
        "label_embeddings": "random",
        "image_size": 64,
        "epochs": 2,
        "batch_size": 6,
        "augmentation": "none",
        "num_workers": 0,
        "mixed_precision": "no",
        "channels_last": "false",
        **changes,
    }
    return [f"{key}={value}" for key, value in settings.items()] + TINY_MODEL
