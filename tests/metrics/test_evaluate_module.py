# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The `evaluate` module, the examples in docstrings and those in its card, and what the package imports."""

import ast
import doctest
import importlib
import pkgutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import modeling_cssfe.metrics
from modeling_cssfe.metrics import long_tail_map


evaluate = pytest.importorskip("evaluate")

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(modeling_cssfe.metrics.__file__).parent / "long_tail_map"
COUNTS = [300, 60, 30, 5]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Keep `evaluate` from writing into the user's cache, and run where relative paths start at the repository."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", tmp_path / "metrics")
    modules = tmp_path / "modules"
    modules.mkdir()  # before it is on the path: Python remembers that a folder is not there
    monkeypatch.setattr(evaluate.config, "HF_MODULES_CACHE", modules)
    # The user's own cache may hold such a package as well, and lies on the path once transformers has loaded Hub code.
    monkeypatch.syspath_prepend(str(modules))
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.chdir(REPOSITORY)


@pytest.fixture
def case():
    generator = np.random.default_rng(0)
    scores = generator.random((40, 4))
    labels = generator.choice([0.0, 1.0, -1.0, np.nan], (40, 4), p=[0.5, 0.3, 0.1, 0.1])
    return scores, labels


def test_without_the_package_evaluate_names_what_to_install(monkeypatch):
    import_module = importlib.import_module

    def fail(name, *arguments):
        if name == "modeling_cssfe":
            raise ImportError(name)
        return import_module(name, *arguments)

    assert "pip install cssfe" in evaluate.load(str(FOLDER)).description
    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(ImportError, match=r"\['modeling_cssfe'\] using 'pip install cssfe'"):
        evaluate.load(str(FOLDER))


@pytest.mark.parametrize("path", ["modeling_cssfe/metrics/long_tail_map", str(FOLDER)], ids=["relative", "absolute"])
def test_the_module_gives_what_the_function_gives(path, case):
    scores, labels = case
    metric = evaluate.load(path)
    expected = long_tail_map(scores, labels, COUNTS, label_names=list("abcd"), top_k=2)
    kwargs = {"class_counts": COUNTS, "label_names": list("abcd"), "top_k": 2}
    assert metric.compute(predictions=scores, references=labels, **kwargs) == expected
    assert metric.compute(predictions=scores.tolist(), references=labels.tolist(), **kwargs) == expected


def test_batches_of_tensors_give_what_the_function_gives(case):
    scores, labels = case
    metric = evaluate.load("modeling_cssfe/metrics/long_tail_map")
    for rows in (slice(0, 7), slice(7, 40)):
        metric.add_batch(predictions=torch.tensor(scores[rows]), references=torch.tensor(labels[rows]))
    assert metric.compute(class_counts=COUNTS) == long_tail_map(scores, labels, COUNTS)


def test_single_images_with_integer_labels_are_added(case):
    scores, labels = case
    labels = np.nan_to_num(labels, nan=-1).astype(int)
    metric = evaluate.load("modeling_cssfe/metrics/long_tail_map")
    for row in range(40):
        metric.add(prediction=scores[row], reference=labels[row])
    assert metric.compute(class_counts=COUNTS) == long_tail_map(scores, labels, COUNTS)


def test_missing_class_counts_are_named_and_the_module_can_be_used_again(case):
    scores, labels = case
    metric = evaluate.load("modeling_cssfe/metrics/long_tail_map")
    with pytest.raises(ValueError, match="class_counts is missing"):
        metric.compute(predictions=scores, references=labels)
    assert metric.compute(predictions=scores, references=labels, class_counts=COUNTS)["num_images"] == 40


def test_the_examples_of_the_module_and_of_its_card_run():
    module = evaluate.load("modeling_cssfe/metrics/long_tail_map")
    test = doctest.DocTestParser().get_doctest(module.inputs_description, {"evaluate": evaluate}, "module", None, 0)
    assert len(test.examples) == 5
    assert doctest.DocTestRunner().run(test).failed == 0
    failed, attempted = doctest.testfile(str(FOLDER / "README.md"), module_relative=False)
    assert (failed, attempted) == (0, 7)


MODULES = [info.name for info in pkgutil.iter_modules(modeling_cssfe.metrics.__path__, "modeling_cssfe.metrics.")]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_every_public_function_but_two_has_an_example():
    finder = doctest.DocTestFinder(exclude_empty=True)
    without = {
        name
        for name in modeling_cssfe.metrics.__all__
        if not any(test.examples for test in finder.find(getattr(modeling_cssfe.metrics, name), name))
    }
    assert without == {"decide", "per_class_calibration_error"}


def test_the_function_keeps_its_name_beside_the_folder_of_the_module():
    evaluate.load("modeling_cssfe/metrics/long_tail_map")
    for name in MODULES:
        importlib.import_module(name)
    assert modeling_cssfe.metrics.long_tail_map is long_tail_map
    assert not (FOLDER / "__init__.py").exists()


@pytest.mark.parametrize("name", ["modeling_cssfe.metrics", *MODULES])
def test_the_metrics_import_nothing_but_the_standard_library_and_numpy(name):
    tree = ast.parse(Path(importlib.import_module(name).__file__).read_text(encoding="utf-8"))
    absolute = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    absolute |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert {module.split(".")[0] for module in absolute} <= {"numpy", *sys.stdlib_module_names}
