# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The pair of networks that the study compares: one trained on a long tail, one on balanced data of about its size.

The long-tailed network is trained on the data's training split. The balanced one is trained on images drawn from the
validation split, so that no image is seen by both; what is left of that split is shared out into a small part on which
each run chooses its best epoch, and the part on which the two are compared, called `test` in both folders.

**How the draw is made.** Every class gets the same target t (all of its images where it has fewer), and the images
come as close to the targets as co-occurrence allows (`modeling_cssfe.data.long_tail.drawing`). The larger t, the more
images, but also the more the frequent companions of rare classes exceed it. So t is the one whose draw comes closest to
the size of the long-tailed split among those in which no class has more than `max_ratio` times the images of the rarest
class. Where that leaves the balanced set smaller, it stays smaller: `pair.json` has all counts, to be named beside any
figure.

**How long they train.** The long-tailed network for the recipe's epochs, and the balanced one for as many as come
nearest to the same number of drawn images, hence of updates. With the same epochs a network of fewer images would be
trained less, and lower logits would be put down to the data that are only due to that.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import label_matrix, label_names_of, load_images
from ..data.stratification import stratified_split


if TYPE_CHECKING:
    import datasets

    from ..training import Recipe

JUDGED_SHARE, CHOOSING_SHARE = 0.25, 0.05
MAX_RATIO = 5.0
_TARGETS_TRIED = 24


@dataclass(frozen=True)
class BalancedDraw:
    """Rows of the split that balanced images are drawn from.

    Attributes:
        train: Rows of the balanced training set, ascending.
        validation: Rows on which both runs choose their best epoch.
        test: Rows on which they are compared.
        target: Images wanted of each class.
        counts: Images of each class in `train`.
        ratio: Of the most frequent to the rarest class in `train`.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    target: int
    counts: tuple[int, ...]
    ratio: float


def draw_balanced(
    labels: Any,
    size: int,
    *,
    judged_share: float = JUDGED_SHARE,
    choosing_share: float = CHOOSING_SHARE,
    max_ratio: float = MAX_RATIO,
    seed: int = 0,
) -> BalancedDraw:
    """Draw a balanced training set of about a size, and split the rest.

    Args:
        labels: `(N, C)` of the images to draw from: 1, 0 and -1.
        size: Images wanted.
        judged_share: Share of the images that is set aside for the comparison, stratified; images that the draw leaves
            over are added to it.
        choosing_share: Share that is set aside for the choice of the best epoch.
        max_ratio: Most that the most frequent class may have, in multiples of the rarest.
        seed: Of everything random.

    Returns:
        The rows and the counts.

    Raises:
        ValueError: A share is out of range, or a class has no image to draw from.
    """
    from ..data.long_tail.drawing import draw_long_tail

    if not 0 < judged_share < 1 or not 0 < choosing_share < 1 or judged_share + choosing_share >= 1:
        raise ValueError(
            f"judged_share {judged_share} and choosing_share {choosing_share} must be > 0 and sum to less than 1."
        )
    if max_ratio < 1:
        raise ValueError(f"max_ratio is {max_ratio}; give a number >= 1.")
    present = np.asarray(labels) == 1
    test, validation = stratified_split(labels, [judged_share, choosing_share], seed)
    pool = np.setdiff1d(np.arange(len(present)), np.concatenate([test, validation]))
    available = present[pool].sum(axis=0)
    missing = np.flatnonzero(available == 0)
    if missing.size:
        raise ValueError(
            f"{missing.size} classes have no image to draw a balanced set from, the first in column {missing[0]}; "
            "give more validation images or a smaller judged_share."
        )
    draws = []
    tried = np.unique(np.geomspace(available.min(), available.max(), _TARGETS_TRIED).round().astype(int))
    for target in (1, *tried.tolist()):
        # The method that takes no time limit, so that the same rows are drawn on every machine.
        drawn = draw_long_tail(np.asarray(labels)[pool], np.minimum(target, available), seed, "greedy")
        ratio = max(drawn.reached) / min(drawn.reached)
        # Balance within the limit first, then the size, then balance.
        rank = (max(ratio, max_ratio), abs(len(drawn.rows) - size), ratio)
        draws.append((rank, drawn, target))
    _, drawn, target = min(draws, key=lambda entry: entry[0])
    rows = pool[drawn.rows]
    return BalancedDraw(
        train=rows,
        validation=validation,
        test=np.sort(np.concatenate([test, np.setdiff1d(pool, rows)])),
        target=target,
        counts=drawn.reached,
        ratio=max(drawn.reached) / min(drawn.reached),
    )


def train_pair(
    recipe: "Recipe",
    output_dir: str | os.PathLike,
    *,
    judged_share: float = JUDGED_SHARE,
    choosing_share: float = CHOOSING_SHARE,
    max_ratio: float = MAX_RATIO,
    quiet: bool = False,
    resume: str = "never",
) -> dict[str, Any]:
    """Draw the balanced set and train both networks by one recipe.

    `output_dir` receives `data/balanced` and `data/long_tailed` (Parquet files of train, validation and test, the last
    two the same in both), the runs `balanced` and `long_tailed`, and `pair.json` with the counts. The study is then
    `cssfe analyze study --balanced DIR/balanced --long_tailed DIR/long_tailed --data DIR/data/long_tailed`.

    Args:
        recipe: What to do; its data must have a training and a validation split. Groups come from the training counts
            of each run's own data, so recipes of net2 and net3 mask by different groups: net0 compares what the
            feature extractors learn and nothing else, as the paper's analysis does.
        output_dir: Folder that does not exist yet or is empty.
        judged_share: As for `draw_balanced`, likewise the next two.
        choosing_share: See there.
        max_ratio: See there.
        quiet: Print no progress and no table.
        resume: `"auto"` goes on with the pair in `output_dir` where it was interrupted, and begins if there is none;
            `"never"` wants a new or empty folder.

    Returns:
        What `pair.json` holds.

    Raises:
        ValueError: The data lack a split or a class, an option is out of range, or the pair to go on with is of other
            data or options; nothing has been written then.
        SavingError: The folder cannot be written.
        TrainingInterruptedError: SIGTERM or SIGINT came; what was trained so far is saved.
    """
    from ..common.files import write_whole
    from ..metrics.inputs import check_choice
    from ..training import train
    from ..training.interruption import TrainingInterruptedError
    from ..training.run_folder import RunFolder

    check_choice("resume", resume, ("auto", "never"))
    if recipe.first_phase:
        raise ValueError(
            "first_phase would show one network of the pair more images than the other; set first_phase to null."
        )
    folder = Path(output_dir)
    begun = resume == "auto" and (folder / "pair.json").is_file()  # written when the data are whole
    if not begun:
        RunFolder(folder)  # raises unless it is new or empty
    splits = load_images(recipe.data, **recipe.data_kwargs)
    for role, name in (("train_split", recipe.train_split), ("validation_split", recipe.validation_split)):
        if name not in splits:
            raise ValueError(f"{recipe.data!r} has no split {name!r} ({role}); it has {', '.join(splits)}.")
    long_tailed, source = splits[recipe.train_split], splits[recipe.validation_split]
    names = label_names_of(long_tailed)
    draw = draw_balanced(
        label_matrix(source),
        len(long_tailed),
        judged_share=judged_share,
        choosing_share=choosing_share,
        max_ratio=max_ratio,
        seed=recipe.seed,
    )
    report: dict[str, Any] = {
        "data": recipe.data,
        "drawn_from": recipe.validation_split,
        "target": draw.target,
        "images": {
            "long_tailed": len(long_tailed),
            "balanced": len(draw.train),
            "validation": len(draw.validation),
            "test": len(draw.test),
        },
        "ratio": {"long_tailed": _ratio(label_matrix(long_tailed)), "balanced": draw.ratio},
        "epochs": _epochs(
            recipe,
            {"balanced": label_matrix(source.select(draw.train)), "long_tailed": label_matrix(long_tailed)},
        ),
        "classes": {
            name: dict(zip(("long_tailed", "balanced", "validation", "test"), map(int, counts), strict=True))
            for name, *counts in zip(
                names,
                (label_matrix(long_tailed) == 1).sum(axis=0),
                draw.counts,
                *((label_matrix(source.select(rows)) == 1).sum(axis=0) for rows in (draw.validation, draw.test)),
                strict=True,
            )
        },
        "options": {
            "judged_share": judged_share,
            "choosing_share": choosing_share,
            "max_ratio": max_ratio,
            "seed": recipe.seed,
        },
    }
    if begun:
        _require_same(json.loads((folder / "pair.json").read_text(encoding="utf-8")), report, output_dir)
    else:
        rest = {"validation": source.select(draw.validation), "test": source.select(draw.test)}
        _write_data(folder / "data" / "balanced", {"train": source.select(draw.train), **rest})
        _write_data(folder / "data" / "long_tailed", {"train": long_tailed, **rest})
        text = json.dumps(report, indent=2) + "\n"
        write_whole(folder / "pair.json", lambda path: path.write_text(text, encoding="utf-8"))
    if not quiet:
        print(json.dumps({key: report[key] for key in ("images", "ratio", "target", "epochs")}))
    for name, epochs in report["epochs"].items():
        own = _recipe_on(recipe, folder / "data" / name, epochs)
        try:
            train(own, folder / name, quiet=quiet, resume=resume)
        except TrainingInterruptedError as error:
            raise TrainingInterruptedError(
                f"stopped while the {name} network trained, and saved; go on with --output_dir {folder} --resume auto.",
                error.exit_code - 128,
            ) from error
    return report


def _require_same(saved: dict[str, Any], report: dict[str, Any], folder: str | os.PathLike) -> None:
    differing = [key for key in report if saved.get(key) != report[key]]
    if differing:
        raise ValueError(
            f"the pair in {os.fspath(folder)!r} was begun with other {', '.join(differing)}; give what it was begun "
            "with, or another folder."
        )


def _epochs(recipe: "Recipe", labels: "dict[str, np.ndarray]") -> dict[str, int]:
    """Epochs of each network, so that both are shown about the same number of images."""
    from ..samplers import build_sampler

    drawn = {
        name: len(build_sampler(recipe.sampler, labels=own, seed=recipe.seed, **recipe.sampler_kwargs))
        for name, own in labels.items()
    }
    return {name: max(1, round(recipe.epochs * drawn["long_tailed"] / number)) for name, number in drawn.items()}


def _recipe_on(recipe: "Recipe", data: Path, epochs: int) -> "Recipe":
    import dataclasses

    return dataclasses.replace(
        recipe,
        data=str(data),
        data_kwargs={},
        train_split="train",
        validation_split="validation",
        test_split="test",
        epochs=epochs,
        published={},  # of another data set
        record_gradients=True,  # the study draws them
    )


def _ratio(labels: np.ndarray) -> float | None:
    counts = (labels == 1).sum(axis=0)
    return float(counts.max() / counts.min()) if counts.min() else None


def _write_data(folder: Path, splits: "dict[str, datasets.Dataset]") -> None:
    """Parquet files with the images in them, under a temporary name until they are whole."""
    from ..data.long_tail.folder import write_split

    growing = folder.with_name(f".{folder.name}.incomplete")
    shutil.rmtree(growing, ignore_errors=True)
    (growing / "data").mkdir(parents=True)
    try:
        for split, rows in splits.items():
            # A loaded table may have its columns in another order than its features name them.
            write_split(rows.select_columns(list(rows.features)), growing / "data", split)
        os.replace(growing, folder)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


__all__ = ["CHOOSING_SHARE", "JUDGED_SHARE", "MAX_RATIO", "BalancedDraw", "draw_balanced", "train_pair"]
