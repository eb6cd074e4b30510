# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The training engine: a recipe in, a folder with a trained model and its results out.

Data flows one way: images -> loader -> model -> loss -> optimizer, then weights -> scores -> metric -> report. The
best epoch is chosen by mAP on the validation split; the test split, if there is one, is looked at once, at the end.
"""

import dataclasses
import inspect
import math
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DataLoaderConfiguration, set_seed
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from ..data import (
    DecodedCache,
    EvaluationTransform,
    build_data_loader,
    build_decoded_cache,
    build_train_transform,
    class_statistics,
    label_matrix,
    label_names_of,
    load_images,
    require_every_class,
    training_draft_size,
    verify_images,
)
from ..image_processing_cssfe import CSSFEImageProcessor
from ..metrics import long_tail_map
from ..modeling_cssfe import CSSFEForImageClassification
from .environment import build_accelerator, describe_environment
from .evaluation import align_labels, compute_scores
from .optimization import build_optimizer, build_schedule
from .recipe import Recipe
from .report import class_table, group_table, show
from .run_folder import RunFolder


if TYPE_CHECKING:
    import datasets


# Metrics of a run that results.json carries for the validation and the test split.
SUMMARY = ("map_total", "map_head", "map_medium", "map_tail")


@dataclass
class _Data:
    """The run's splits and what is known of their classes."""

    splits: "dict[str, datasets.Dataset]"
    label_names: list[str]
    class_counts: list[int]
    num_samples: int
    skipped: dict[str, list[str]]


def train(recipe: Recipe, output_dir: str | os.PathLike, quiet: bool = False) -> dict[str, Any]:
    """Train a model and write everything about the run into a folder.

    Args:
        recipe: What to do; see `Recipe`.
        output_dir: A folder that does not exist yet or is empty. It receives the model with its image processor and
            Hub code, `results.json`, `log.jsonl`, the model card `README.md` and `checkpoints/`.
        quiet: Print no progress and no table.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: Something about recipe, data, weights or embeddings does not fit; nothing has been written then.
        SavingError: The folder cannot be written.
        FloatingPointError: The loss is not finite any more.
    """
    start = time.perf_counter()
    folder = RunFolder(output_dir)
    accelerator = build_accelerator(
        recipe.mixed_precision,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        # The schedule is stepped once an update, whatever the number of processes.
        step_scheduler_with_optimizer=False,
    )
    set_seed(recipe.seed)
    show_progress = accelerator.is_main_process and not quiet
    data = _load_data(recipe, show_progress)
    model = _build_model(recipe, data)
    processor = CSSFEImageProcessor.from_model_config(model.config)
    loaders = _build_loaders(recipe, processor, data, show_progress)
    if accelerator.is_main_process:
        folder.create()
    best = _fit(recipe, model, loaders, data, folder, accelerator, quiet)
    results = {
        **{key: best["validation"][key] for key in SUMMARY},
        "per_class": best["validation"]["per_class"],
        "best_epoch": best["epoch"],
        "chosen_on": recipe.validation_split,
        "validation": best["validation"],
        "test": best["test"],
        "seed": recipe.seed,
        "wall_time_seconds": round(time.perf_counter() - start, 3),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "class_counts": dict(zip(data.label_names, data.class_counts, strict=True)),
        "num_training_images": data.num_samples,
        "skipped_images": data.skipped,
        "mixed_precision": accelerator.mixed_precision,
        "num_processes": accelerator.num_processes,
        "environment": describe_environment(),
        "recipe": dataclasses.asdict(recipe),
    }
    if accelerator.is_main_process:
        _write_run(folder, model, processor, results)
        if not quiet:
            _show_results(results)
    accelerator.end_training()
    return results


def _load_data(recipe: Recipe, show_progress: bool) -> _Data:
    known = list(inspect.signature(load_images).parameters)[1:]
    for key in recipe.data_kwargs:
        if key not in known:
            raise ValueError(f"unknown data_kwargs.{key}; load_images takes {', '.join(known)}.")
    splits = load_images(recipe.data, **recipe.data_kwargs)
    for role, name in (("train_split", recipe.train_split), ("validation_split", recipe.validation_split)):
        if name not in splits:
            raise ValueError(
                f"{recipe.data!r} has no split {name!r} ({role}); it has {', '.join(splits)}: set {role}, or carve a "
                "validation split from the training images."
            )
    names = label_names_of(splits[recipe.train_split])
    used, skipped = {}, {}
    for name in (recipe.train_split, recipe.validation_split, recipe.test_split):
        if name in splits:
            used[name], report = verify_images(
                splits[name],
                on_error="skip" if recipe.skip_unreadable_images else "raise",
                num_threads=os.cpu_count() or 1,
                progress=show_progress,
            )
            skipped[name] = [image_id for _, image_id, _ in report.broken]
    statistics = class_statistics(used[recipe.train_split], names)
    require_every_class(statistics, recipe.train_split)
    return _Data(used, names, list(statistics.class_counts), statistics.num_samples, skipped)


def _build_model(recipe: Recipe, data: _Data) -> CSSFEForImageClassification:
    settings = dict(recipe.model)
    if recipe.loss_kwargs is not None:
        settings["loss_kwargs"] = recipe.loss_kwargs
    model = CSSFEForImageClassification.from_backbone(
        recipe.backbone,
        label_names=data.label_names,
        class_counts=data.class_counts,
        num_samples=data.num_samples,
        backbone_weights=recipe.backbone_weights,
        label_embeddings=recipe.label_embeddings,
        seed=recipe.seed,
        backbone_kwargs=recipe.backbone_kwargs or None,
        image_size=recipe.image_size,
        preset=recipe.preset,
        ablation=recipe.ablation,
        loss=recipe.loss,
        **settings,
    )
    _ = model.loss_function  # an unknown loss or option is an error now, not after the first batch
    if recipe.freeze_backbone:
        model.cssfe.backbone.requires_grad_(False)
    return model


def _decoded_cache(recipe: Recipe, split: "datasets.Dataset", show_progress: bool) -> DecodedCache | None:
    if recipe.decoded_cache is None:
        return None
    return build_decoded_cache(
        split,
        recipe.decoded_cache,
        short_side=recipe.decoded_cache_short_side,
        num_workers=os.cpu_count() or 1,
        progress=show_progress,
    )


def _build_loaders(recipe: Recipe, processor, data: _Data, show_progress: bool) -> dict[str, DataLoader]:
    train_data = data.splits[recipe.train_split]
    transform = build_train_transform(
        recipe.image_size,
        processor.image_mean,
        processor.image_std,
        augmentation=recipe.augmentation,
        crop_scale=tuple(recipe.crop_scale),
        horizontal_flip=recipe.horizontal_flip,
        random_erasing=recipe.random_erasing,
    )
    sampler = None
    if recipe.sampler != "uniform" or recipe.sampler_kwargs:
        from ..samplers import build_sampler

        sampler = build_sampler(
            recipe.sampler, labels=label_matrix(train_data), seed=recipe.seed, **recipe.sampler_kwargs
        )
    workers = recipe.num_workers
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if torch.cuda.is_available() else min(2, (os.cpu_count() or 1) - 1)
    caches = {name: _decoded_cache(recipe, split, show_progress) for name, split in data.splits.items()}
    loaders = {
        recipe.train_split: build_data_loader(
            train_data,
            transform,
            decoded_cache=caches[recipe.train_split],
            draft_size=training_draft_size(recipe.image_size, recipe.crop_scale) if recipe.draft_decoding else None,
            batch_size=recipe.batch_size,
            shuffle=sampler is None,
            sampler=sampler,
            num_workers=workers,
            seed=recipe.seed,
            # A last batch of one image would make BatchNorm fail.
            drop_last=len(train_data) > recipe.batch_size,
        )
    }
    for name in data.splits:
        if name != recipe.train_split:
            loaders[name] = build_data_loader(
                data.splits[name],
                EvaluationTransform(processor),
                decoded_cache=caches[name],
                batch_size=2 * recipe.batch_size,
                num_workers=workers,
            )
    return loaders


def _fit(recipe, model, loaders: dict[str, Any], data, folder, accelerator, quiet) -> dict[str, Any]:
    """Train for all epochs; return the best epoch's results and leave its weights in `model`."""
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    model.to(accelerator.device)
    average = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True) if recipe.ema_decay else None
    optimizer = build_optimizer(model, recipe)
    updates_per_epoch = math.ceil(
        len(loaders[recipe.train_split]) / accelerator.num_processes / recipe.gradient_accumulation_steps
    )
    schedule = build_schedule(optimizer, recipe, recipe.epochs * updates_per_epoch)
    if recipe.compile:
        model.compile()
    train_sampler: Any = loaders[recipe.train_split].sampler
    prepared, optimizer, *prepared_loaders = accelerator.prepare(model, optimizer, *loaders.values())
    loaders = dict(zip(loaders, prepared_loaders, strict=True))
    best: dict[str, Any] = {"epoch": None, "score": -1.0, "validation": None, "state": None, "test": None}
    for epoch in range(1, recipe.epochs + 1):
        loaders[recipe.train_split].set_epoch(epoch - 1)
        train_sampler.set_epoch(epoch - 1)
        if hasattr(model.criterion, "set_epoch"):  # deferred re-weighting
            model.criterion.set_epoch(epoch - 1, recipe.epochs)
        entry = _train_epoch(
            recipe, epoch, prepared, average, loaders[recipe.train_split], optimizer, schedule, accelerator, quiet
        )
        if epoch % recipe.evaluate_every == 0 or epoch == recipe.epochs:
            judged = average.module if average is not None else prepared
            result = _judge(judged, loaders[recipe.validation_split], data, recipe.validation_split, model, accelerator)
            entry |= {key: result[key] for key in SUMMARY}
            score = -1.0 if result["map_total"] is None else result["map_total"]
            if best["epoch"] is None or score > best["score"]:
                state = (average.module if average is not None else model).state_dict()
                state = {key: value.detach().cpu().clone() for key, value in state.items()}
                best.update(epoch=epoch, score=score, validation=result, state=state)
                if accelerator.is_main_process:
                    folder.save_files(partial(model.save_pretrained, state_dict=dict(state)), "checkpoints/best")
        if accelerator.is_main_process:
            folder.append_log(entry)
            if not quiet:
                tqdm.write(_epoch_line(entry, recipe.epochs))
    model.load_state_dict(best["state"])
    if recipe.test_split in loaders:
        best["test"] = _judge(prepared, loaders[recipe.test_split], data, recipe.test_split, model, accelerator)
    return best


def _train_epoch(recipe, epoch, model, average, loader, optimizer, schedule, accelerator, quiet) -> dict[str, Any]:
    _set_train_mode(accelerator.unwrap_model(model), recipe)
    started, images = time.perf_counter(), 0
    total = torch.zeros((), device=accelerator.device)
    steps = 0
    bar = tqdm(
        loader,
        desc=f"epoch {epoch}/{recipe.epochs}",
        leave=False,
        disable=quiet or not accelerator.is_main_process,
    )
    for batch in bar:
        with accelerator.accumulate(model):
            pixels = batch["pixel_values"]
            if recipe.channels_last:
                pixels = pixels.contiguous(memory_format=torch.channels_last)
            loss = model(pixel_values=pixels, labels=batch["labels"]).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients and recipe.max_grad_norm is not None:
                accelerator.clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
            optimizer.step()
            if accelerator.sync_gradients and not accelerator.optimizer_step_was_skipped:
                schedule.step()
                if average is not None:
                    average.update(accelerator.unwrap_model(model), step=schedule.last_epoch)
            optimizer.zero_grad()
        total += loss.detach().float()
        steps += 1
        images += len(pixels) * accelerator.num_processes
        if steps % 10 == 1:  # reading the loss waits for the device
            value = total.item() / steps
            if not math.isfinite(value):
                break
            bar.set_postfix(loss=f"{value:.4f}")
    loss_value = total.item() / max(steps, 1)
    if not math.isfinite(loss_value):
        raise FloatingPointError(
            f"the loss is not finite at epoch {epoch}, step {steps}; lower learning_rate, set max_grad_norm, or use "
            "mixed_precision=no."
        )
    elapsed = time.perf_counter() - started
    return {
        "epoch": epoch,
        "loss": loss_value,
        "learning_rate": max(group["lr"] for group in optimizer.param_groups),
        "images_per_second": round(images / elapsed, 2),
        "seconds": round(elapsed, 3),
    }


def _set_train_mode(model: CSSFEForImageClassification, recipe: Recipe) -> None:
    model.train()
    backbone = model.cssfe.backbone
    if recipe.freeze_backbone:
        backbone.eval()
    elif recipe.freeze_batch_norm:
        for module in backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def _judge(judged, loader, data: _Data, split: str, model, accelerator) -> dict[str, Any]:
    scores, labels = compute_scores(judged, loader, accelerator, f"judging {split}")
    labels = align_labels(labels, label_names_of(data.splits[split]), data.label_names)
    config = model.config
    return long_tail_map(
        scores, labels, data.class_counts, config.head_min, config.tail_max, label_names=data.label_names
    )


def _epoch_line(entry: dict[str, Any], epochs: int) -> str:
    line = f"epoch {entry['epoch']:>3}/{epochs}  loss {entry['loss']:.4f}  {entry['images_per_second']:.0f} images/s"
    if "map_total" in entry:
        shown = ("-" if entry[key] is None else f"{100 * entry[key]:.1f}" for key in SUMMARY)
        line += "  mAP total/head/medium/tail " + " / ".join(shown)
    return line


def _write_run(folder: RunFolder, model, processor, results: dict[str, Any]) -> None:
    from ..hub.model_card import render_model_card

    def save(path):
        model.save_pretrained(path)
        processor.save_pretrained(path)

    folder.save_files(save)
    folder.write_json("results.json", results)
    folder.write_text("README.md", render_model_card(results, model.config))


def _show_results(results: dict[str, Any]) -> None:
    judged = {f"{results['chosen_on']} (best epoch {results['best_epoch']})": results["validation"]}
    if results["test"] is not None:
        judged[results["recipe"]["test_split"]] = results["test"]
    last = results["test"] or results["validation"]
    name = f"{results['recipe']['ablation']}, {results['recipe']['backbone']}, {results['recipe']['loss']}"
    show(class_table(last, "Average precision by class"), group_table(judged, name))


__all__ = ["train"]
