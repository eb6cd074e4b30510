# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import os

import pytest
import torch

from modeling_cssfe.training import load_recipe
from modeling_cssfe.training.preparation import loader_workers


@pytest.mark.parametrize(
    ("cores", "processes", "gpu", "workers"),
    [
        (1, None, False, 0),
        (2, None, False, 1),
        (64, None, False, 2),
        (2, 2, False, 0),
        (1, None, True, 1),
        (16, None, True, 14),
        (128, None, True, 16),
        (96, 8, True, 10),
        (4, 8, True, 1),
    ],
)
def test_loader_processes_leave_cores_to_the_training_processes(cores, processes, gpu, workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert loader_workers(load_recipe(None, [])) == workers
    assert loader_workers(load_recipe(None, ["num_workers=5"])) == 5
