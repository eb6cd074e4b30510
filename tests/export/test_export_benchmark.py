# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import csv
import importlib.util
from pathlib import Path

import pytest
from tiny_runs import COLORS, write_parquet


def test_the_export_benchmark_judges_each_form_and_names_its_environment(exported, same_graph, tmp_path, monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "export.py"
    if not path.exists():
        pytest.skip("the benchmarks are not beside the tests (an installed package has none)")
    spec = importlib.util.spec_from_file_location("benchmark_export", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    names = exported.model.config.label_names
    for name in names:
        monkeypatch.setitem(COLORS, name, (200, 40, 40))
    judged = [[name, names[0]] for name in names] * 2
    write_parquet(tmp_path, {"train": judged, "validation": judged}, names)
    output = tmp_path / "results" / "export.csv"
    # Compiling takes half a minute, and each 8-bit form ten seconds; they are built in the same way.
    options = ["--forms", "eager", "onnx", "--batch_sizes", "2", "--repeats", "2", "--threads", "1"]
    with same_graph():
        benchmark.main([str(exported.folder), "--data", str(tmp_path), "--output", str(output), *options])
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
