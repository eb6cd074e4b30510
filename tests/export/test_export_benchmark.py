# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import importlib.util
from pathlib import Path

import pytest


def test_the_export_benchmark_judges_each_form_and_names_its_environment(tiny_run, tiny_data, tmp_path):
    path = Path(__file__).parents[2] / "benchmarks" / "export.py"
    if not path.exists():
        pytest.skip("the benchmarks are not beside the tests (an installed package has none)")
    spec = importlib.util.spec_from_file_location("benchmark_export", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    output = tmp_path / "results" / "export.csv"
    # Compiling takes half a minute, and each 8-bit form ten seconds; they are built in the same way.
    options = ["--forms", "eager", "onnx", "--batch_sizes", "2", "--repeats", "2", "--threads", "1"]
    benchmark.main([str(tiny_run), "--data", str(tiny_data), "--output", str(output), *options])
    rows = {row["form"]: row for row in csv.DictReader(output.open())}
    assert set(rows) == {"eager", "onnx"}
    assert float(rows["eager"]["time_over_eager_batch_2"]) == 1
    for row in rows.values():
        assert float(row["milliseconds_batch_2"]) > 0
        # Equal scores give equal figures.
        assert row["map_total"] == rows["eager"]["map_total"]
        assert float(row["largest_score_difference"]) < 1e-5
        assert row["onnxruntime"]
        assert row["torch"]
