# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What transformers' own Trainer sees of a model."""

import copy

import pytest
import torch
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from .helpers import images_for, small_model


class Images(Dataset):
    def __init__(self, model):
        self.pixels = images_for(model, batch=4)
        self.labels = torch.tensor([[1.0, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 1]])

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def arguments(folder, **options):
    fixed = {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "seed": 0}
    return TrainingArguments(str(folder), **fixed, **options)


def test_predictions_are_the_logits_alone(tmp_path):
    model = small_model()
    images = Images(model)
    seen = []

    def metrics(prediction):
        logits, labels = prediction
        seen.append(torch.from_numpy(logits))
        return {"right": float(((logits > 0) == labels).mean())}

    trainer = Trainer(model, arguments(tmp_path), eval_dataset=images, compute_metrics=metrics)
    trainer.evaluate()
    with torch.no_grad():
        torch.testing.assert_close(seen[0], model(images.pixels).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("accumulated", [2, 4])
def test_accumulated_batches_give_the_update_of_one_large_batch(accumulated, tmp_path):
    start = small_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, label_dropout=0.0)
    # BatchNorm's statistics are those of each small batch: its layers stay as they are.
    start.cssfe.backbone.requires_grad_(False)
    updates = []
    for steps in (1, accumulated):
        model = copy.deepcopy(start)
        model.cssfe.backbone.train = lambda mode=True, backbone=model.cssfe.backbone: backbone
        options = {"per_device_train_batch_size": 4 // steps, "gradient_accumulation_steps": steps, "max_steps": 1}
        trainer = Trainer(
            model,
            arguments(tmp_path, **options, learning_rate=0.1, optim="sgd", lr_scheduler_type="constant"),
            train_dataset=Images(start),
        )
        trainer.train()
        pairs = zip(model.named_parameters(), start.named_parameters(), strict=True)
        updates.append(torch.cat([(new - old).flatten() for (_, new), (_, old) in pairs]))
    assert updates[0].norm() > 1e-3
    torch.testing.assert_close(updates[1], updates[0], rtol=1e-3, atol=1e-6)
