import os


# One thread a test process: tests run side by side, and sums come out the same on every machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import pytest
import torch
from tiny_runs import tiny_overrides, tiny_splits, write_parquet


torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A folder of Parquet files: coloured squares, three classes, 18 training images."""
    folder = tmp_path_factory.mktemp("tiny_data")
    write_parquet(folder, tiny_splits())
    return folder


@pytest.fixture(scope="session")
def tiny_run(tiny_data, tmp_path_factory):
    """The folder of a short net3 run on `tiny_data`."""
    from modeling_cssfe.training import load_recipe, train

    folder = tmp_path_factory.mktemp("runs") / "net3"
    train(load_recipe(None, tiny_overrides(tiny_data)), folder, quiet=True)
    return folder
