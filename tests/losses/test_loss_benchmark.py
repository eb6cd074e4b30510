# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import importlib.util
import sys
from pathlib import Path

import pytest

from modeling_cssfe.losses import list_losses


def test_the_benchmark_measures_every_loss_and_names_its_environment(tmp_path, monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "losses.py"
    if not path.exists():
        pytest.skip("the benchmarks are not beside the tests (an installed package has none)")
    spec = importlib.util.spec_from_file_location("benchmark_losses", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    output = tmp_path / "results" / "losses.csv"
    options = {"classes": 5, "batch_size": 4, "repeats": 2, "modes": "eager", "device": "cpu", "output": output}
    monkeypatch.setattr(sys, "argv", ["losses.py", *(w for k, v in options.items() for w in (f"--{k}", str(v)))])
    benchmark.main()
    rows = list(csv.DictReader(output.open()))
    assert {row["loss"] for row in rows} == {*list_losses(), "torch_bce"}
    for row in rows:
        assert float(row["median_us"]) > 0
        # The gradient alone is 4 images of 5 classes in fp32.
        assert int(row["peak_bytes"]) >= 4 * 5 * 4
        assert row["torch"]
        assert row["cores"]
    assert [path.name for path in output.parent.iterdir()] == ["losses.csv"]
