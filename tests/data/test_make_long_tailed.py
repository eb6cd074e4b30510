# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import hashlib
import importlib.util
import itertools
import json
from fractions import Fraction
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse, stats

from modeling_cssfe.data import label_matrix, load_images
from modeling_cssfe.data.long_tail.drawing import draw_long_tail
from modeling_cssfe.data.long_tail.make import (
    cooccurrence_order,
    exponential_counts,
    make_long_tailed,
    pareto_counts,
)
from modeling_cssfe.data.readers.records import image_features
from modeling_cssfe.data.statistics import sparse_labels


NAMES = ("tree", "house", "cat", "dog", "owl")


# Profiles and orders


@pytest.mark.parametrize(("classes", "most", "last"), [(20, 800, 4), (80, 1200, 6)])
def test_the_pareto_profile_is_the_benchmarks_formula(classes, most, last):
    places = np.linspace(stats.pareto.ppf(0, 6), stats.pareto.ppf(0.99, 6), classes)
    expected = [int(density * (most - 1) / 6 + 1) for density in stats.pareto.pdf(places, 6)]
    assert pareto_counts(classes, most, 1).tolist() == expected
    assert (expected[0], expected[-1]) == (most, last)


def test_the_exponential_profile_gives_the_known_counts_of_long_tailed_cifar():
    known = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # imbalance 100, as printed in many papers
    assert exponential_counts(10, 5000, 50).tolist() == known
    assert exponential_counts(1, 7, 2).tolist() == pareto_counts(1, 7, 2).tolist() == [7]


def test_classes_are_ordered_by_summed_conditional_cooccurrence():
    labels = np.random.default_rng(3).random((200, 8)) < np.linspace(0.5, 0.05, 8)
    sums = [
        sum(Fraction(int((labels[:, c] & labels[:, j]).sum()), int(labels[:, j].sum())) for j in range(8) if j != c)
        for c in range(8)
    ]
    assert cooccurrence_order(labels).tolist() == sorted(range(8), key=lambda c: -sums[c])
    alone = np.zeros((4, 3))
    alone[:3, 2] = alone[3, 1] = 1  # nobody comes along with others: the frequent first, then by number
    assert cooccurrence_order(alone).tolist() == [2, 1, 0]


def read_list(name: str, classes: int) -> np.ndarray:
    file = Path(__file__).parents[3] / "shared" / "data" / "lt_lists" / f"{name}.txt"
    if not file.is_file():
        pytest.skip("../shared/data/lt_lists is not here")
    lines = [line.split()[1:] for line in file.read_text().splitlines()]
    labels = np.zeros((len(lines), classes), dtype=np.int8)
    for row, ids in enumerate(lines):
        labels[row, [int(label) for label in ids]] = 1
    return labels


@pytest.mark.parametrize(("name", "classes", "agreement"), [("voc", 20, 0.95), ("coco", 80, 0.98)])
def test_the_order_of_the_benchmarks_is_found_in_their_test_sets(name, classes, agreement):
    order = cooccurrence_order(read_list(f"{name}_lt_test", classes))
    counts = read_list(f"{name}_lt_train", classes).sum(axis=0)
    assert stats.spearmanr(-np.arange(classes), counts[order]).statistic > agreement
    assert order[0] == counts.argmax()


def test_the_benchmarks_profile_is_met_exactly_on_its_own_photographs():
    labels = read_list("voc_lt_test", 20)
    targets = np.zeros(20, dtype=int)
    targets[cooccurrence_order(labels)] = pareto_counts(20, 800)
    drawn = draw_long_tail(labels, targets)
    assert labels[drawn.rows].sum(axis=0).tolist() == targets.tolist()
    assert (drawn.method, drawn.status, drawn.gap, drawn.deviation) == ("exact", "optimal", 0.0, 0.0)


# Drawing


def cost(labels: np.ndarray, targets: np.ndarray) -> int:
    weights = [int(100 * max(1, max(targets)) / max(target, 1) + 0.5) for target in targets]
    return sum(
        weight * abs(int(reached) - int(target))
        for weight, reached, target in zip(weights, labels.sum(axis=0), targets, strict=True)
    )


def brute_force(labels: np.ndarray, targets: np.ndarray) -> int:
    """The least cost of any subset that gives each class with a target an image, if there is one."""
    needed = (targets > 0) & labels.any(axis=0)
    return min(
        cost(labels[list(rows)], targets)
        for size in range(len(labels) + 1)
        for rows in itertools.combinations(range(len(labels)), size)
        if labels[list(rows)][:, needed].any(axis=0).all()
    )


@pytest.mark.parametrize("seed", range(12))
def test_the_exact_draw_is_the_best_of_all_subsets_and_the_greedy_one_comes_close(seed):
    generator = np.random.default_rng(seed)
    labels = (generator.random((10, 5)) < generator.uniform(0.1, 0.7, 5)).astype(np.int8)
    targets = generator.integers(0, 7, 5)
    best = brute_force(labels, targets)
    exact = draw_long_tail(labels, targets, seed, "exact")
    assert (exact.status, exact.gap) == ("optimal", 0.0)
    assert cost(labels[exact.rows], targets) == best
    greedy = draw_long_tail(labels, targets, seed, "greedy")
    assert best <= cost(labels[greedy.rows], targets) <= best + 100 * max(targets)  # one image of the rarest class
    assert (greedy.status, greedy.gap) == ("heuristic", None)


def structured(num_images: int, num_classes: int) -> np.ndarray:
    """Labels that follow from whole numbers alone: the same on every machine."""
    numbers = np.arange(num_images * num_classes, dtype=np.int64).reshape(num_images, num_classes)
    return (numbers * 2654435761 % 1009 < 500 // np.arange(1, num_classes + 1)).astype(np.int8)


@pytest.mark.parametrize("crowded", [False, True])
def test_greedy_is_nearly_as_good_as_exact_on_larger_sets(crowded):
    labels = structured(3000, 15)
    if crowded:  # twice as many labels an image, and pairs that come together
        labels[:, :12] |= labels[::-1, 3:]
    targets = pareto_counts(15, 400)
    exact, greedy = (draw_long_tail(labels, targets, 0, method) for method in ("exact", "greedy"))
    assert exact.deviation <= greedy.deviation <= exact.deviation + 0.1
    for drawn in (exact, greedy):
        reached = labels[drawn.rows].sum(axis=0)
        assert drawn.reached == tuple(reached)
        assert drawn.deviation == pytest.approx((np.abs(reached - targets) / targets).sum())


@pytest.mark.parametrize(("swap_work", "factor"), [(None, 1.6), (0, 1.8)])
def test_improvements_bring_greedy_draws_of_tight_sets_near_the_best(swap_work, factor, monkeypatch):
    # Without exchanges and swaps the greedy draws deviate twice as much as the best ones.
    if swap_work is not None:
        monkeypatch.setattr("modeling_cssfe.data.long_tail.drawing._SWAP_WORK", swap_work)
    totals = {"exact": 0.0, "greedy": 0.0}
    for seed in range(30):
        labels = (np.random.default_rng(seed).random((40, 6)) < 0.35).astype(np.int8)
        for method in totals:
            totals[method] += draw_long_tail(labels, [14, 8, 6, 4, 3, 2], 0, method).deviation
    assert 0 < totals["exact"] <= totals["greedy"] <= factor * totals["exact"]


def test_a_draw_with_tight_co_occurrence_keeps_the_tail_on_target():
    # Every image of a rare class shows the common one as well, more often than its target allows.
    labels = np.zeros((300, 3), dtype=np.int8)
    labels[:, 0] = 1
    labels[:40, 1] = labels[40:60, 2] = 1
    drawn = draw_long_tail(labels, [30, 20, 15], method="greedy")
    assert drawn.reached == (35, 20, 15)  # 5 too many of the first cost 1/6, 1 too few of the last costs 1/15
    assert draw_long_tail(labels, [30, 20, 15], method="exact").deviation <= drawn.deviation


@settings(max_examples=60, deadline=None)
@given(
    labels=arrays(np.int8, st.tuples(st.integers(0, 25), st.integers(1, 6)), elements=st.sampled_from([0, 0, 1, -1])),
    data=st.data(),
)
def test_rows_are_sorted_labelled_and_give_every_wanted_class_an_image(labels, data):
    targets = np.array([data.draw(st.integers(0, 30)) for _ in range(labels.shape[1])])
    for method in ("greedy", "exact"):
        drawn = draw_long_tail(labels, targets, data.draw(st.integers(0, 3)), method)
        present = labels[drawn.rows] == 1
        assert (np.diff(drawn.rows) > 0).all()
        assert present.any(axis=1).all()
        assert drawn.reached == tuple(present.sum(axis=0))
        assert (present.any(axis=0) >= ((targets > 0) & (labels == 1).any(axis=0))).all()


def digest(rows: np.ndarray) -> str:
    return hashlib.sha256(",".join(map(str, rows.tolist())).encode()).hexdigest()


@pytest.mark.parametrize("method", ["greedy", "exact"])
def test_the_same_seed_draws_the_same_images_on_every_machine(method):
    labels = structured(3000, 15)
    drawn = draw_long_tail(labels, pareto_counts(15, 400), 7, method)
    assert drawn.reproducible
    assert digest(drawn.rows) == RECORDED[method]
    as_sparse = draw_long_tail(sparse.csr_matrix(labels), pareto_counts(15, 400), 7, method)
    assert digest(as_sparse.rows) == RECORDED[method]
    assert digest(draw_long_tail(labels, pareto_counts(15, 400), 8, method).rows) != RECORDED[method]


def test_a_time_limit_is_reported_and_not_passed_over():
    labels = (np.random.default_rng(0).random((4000, 40)) < 0.12).astype(np.int8)
    targets = exponential_counts(40, 300, 20)
    fallen_back = draw_long_tail(labels[:2000], targets, method="auto", time_limit=1e-6)
    assert (fallen_back.method, fallen_back.reproducible, fallen_back.gap) == ("greedy", False, None)
    assert fallen_back.status == "heuristic (nothing was proven within 1e-06 s)"
    with pytest.raises(RuntimeError, match=r"found nothing within 1e-06 s; raise time_limit or use method='greedy'"):
        draw_long_tail(labels, targets, method="exact", time_limit=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target_counts": [1]}, r"target_counts must be 2 numbers, one a class, got the shape \(1,\)"),
        ({"target_counts": [1, -1]}, "target_counts must be whole numbers >= 0, got -1"),
        ({"target_counts": [1, 0.5]}, r"whole numbers >= 0, got 0\.5"),
        ({"target_counts": [1, 1], "method": "best"}, "unknown method 'best'; choose one of auto, exact, greedy"),
        ({"target_counts": [1, 1], "time_limit": 0}, "time_limit must be > 0 seconds, got 0"),
        ({"target_counts": [1, 1], "seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_wrong_arguments_of_a_draw_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_long_tail(np.eye(2), **arguments)


# Data sets


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> datasets.Dataset:
    """600 images (bytes and files in turn), five classes, some unknown labels, 30 images without any."""
    generator = np.random.default_rng(5)
    present = generator.random((600, 5)) < [0.6, 0.35, 0.2, 0.12, 0.08]
    unknown = ~present & (generator.random((600, 5)) < 0.05)
    present[570:] = unknown[570:] = False
    folder = tmp_path_factory.mktemp("images")
    files = []
    for number in range(600):
        content = b"picture %d" % number  # nothing here decodes it
        if number % 2:
            (folder / f"{number}.png").write_bytes(content)
        files.append({"bytes": None if number % 2 else content, "path": str(folder / f"{number}.png")})
    content = {
        "image_id": [f"id{number}" for number in range(600)],
        "image": files,
        "labels": [np.flatnonzero(row).tolist() for row in present],
        "unknown_labels": [np.flatnonzero(row).tolist() for row in unknown],
    }
    return datasets.Dataset.from_dict(content, features=image_features(NAMES, with_unknown=True))


def test_sparse_labels_are_those_of_the_rows(source):
    for row, has, maybe in zip(
        sparse_labels(source).toarray(), source["labels"][:], source["unknown_labels"][:], strict=True
    ):
        assert np.flatnonzero(row == 1).tolist() == has
        assert np.flatnonzero(row == -1).tolist() == maybe
    assert (sparse_labels(source.remove_columns("unknown_labels")).toarray() >= 0).all()
    doubled = datasets.Dataset.from_dict(
        {"image_id": ["a"], "image": [None], "labels": [[1, 1]]}, features=image_features(NAMES)
    )
    assert sparse_labels(doubled).toarray().tolist() == [[0, 1, 0, 0, 0]]


@pytest.mark.parametrize("unlabeled", ["rest", "drop"])
def test_every_image_lands_in_one_split_and_the_report_counts_them(source, unlabeled):
    draw = make_long_tailed(source, profile="exponential", max_count=100, min_count=5, unlabeled=unlabeled, seed=1)
    ids = {name: split["image_id"][:] for name, split in draw.dataset.items()}
    together = [image_id for split in ids.values() for image_id in split]
    matrix = label_matrix(source)
    nothing = {f"id{row}" for row in np.flatnonzero(~matrix.any(axis=1))}
    assert len(nothing) >= 30
    assert sorted(together) == sorted(set(source["image_id"][:]) - (nothing if unlabeled == "drop" else set()))
    assert abs(len(ids["validation"]) - len(ids["test"])) <= 1
    by_id = dict(zip(source["image_id"][:], matrix, strict=True))
    for name, split in draw.dataset.items():
        rows = np.array([by_id[image_id] for image_id in ids[name]])
        assert (label_matrix(split) == rows).all()  # unknown labels stayed unknown
        assert draw.counts[name] == tuple((rows == 1).sum(axis=0))
    assert draw.available == tuple((matrix == 1).sum(axis=0))
    assert [draw.targets[NAMES.index(name)] for name in draw.class_order] == exponential_counts(5, 100, 5).tolist()
    assert [row["train"] for row in draw.report()["classes"]] == [
        draw.counts["train"][NAMES.index(name)] for name in draw.class_order
    ]
    assert draw.deviation == 0
    both = np.array([draw.counts["validation"], draw.counts["test"]])
    assert np.abs(both[0] - both[1]).max() <= 2


def test_counts_by_name_sizes_and_orders_are_followed(source):
    wanted = {"owl": 15, "dog": 12, "cat": 7, "house": 5, "tree": 9}
    draw = make_long_tailed(source, counts=wanted, num_validation=50, num_test=70)
    assert dict(zip(NAMES, draw.counts["train"], strict=True)) == wanted
    assert draw.class_order == ("owl", "dog", "tree", "cat", "house")
    assert (len(draw.dataset["validation"]), len(draw.dataset["test"])) == (50, 70)
    listed = make_long_tailed(source, counts=[wanted[name] for name in NAMES], num_test=0)
    assert listed.dataset["train"]["image_id"][:] == draw.dataset["train"]["image_id"][:]
    assert list(listed.dataset) == ["train", "validation"]
    assert sum(len(split) for split in listed.dataset.values()) == 600
    frequent = make_long_tailed(source, max_count=60, order="frequency")
    assert frequent.class_order == NAMES
    assert frequent.targets == tuple(pareto_counts(5, 60))


def test_a_split_of_several_is_chosen(source):
    several = datasets.DatasetDict(train=source.select(range(400)), test=source.select(range(400, 600)))
    with pytest.raises(ValueError, match="the data set has the splits 'train', 'test'; name the split"):
        make_long_tailed(several, max_count=20)
    one = make_long_tailed(several, max_count=20, split="train")
    assert sum(len(split) for split in one.dataset.values()) == 400
    everything = make_long_tailed(several, max_count=20, split="all")
    assert (
        everything.dataset["train"]["image_id"][:]
        == make_long_tailed(source, max_count=20).dataset["train"]["image_id"][:]
    )
    with pytest.raises(ValueError, match="two splits have an image with the id 'id0'"):
        make_long_tailed(datasets.DatasetDict(a=source, b=source), max_count=20, split="all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "max_count is missing; the profile 'pareto' needs"),
        ({"max_count": 5, "min_count": 9}, "max_count >= min_count >= 1 must hold, got max_count 5 and min_count 9"),
        ({"max_count": 5, "profile": "parreto"}, "unknown profile 'parreto'.* did you mean 'pareto'"),
        ({"max_count": 5, "order": "x"}, "unknown order 'x'; choose one of 'cooccurrence', 'frequency'"),
        ({"max_count": 5, "unlabeled": "keep"}, "unknown unlabeled 'keep'"),
        ({"max_count": 5, "split": "train"}, "the data set is one split already"),
        ({"max_count": 5, "num_test": 1000}, r"ask for 1000 images, but the draw leaves \d+"),
        ({"max_count": 5, "num_test": -1}, "num_test must be >= 0, got -1"),
        ({"max_count": 5, "counts": [1] * 5}, "counts and max_count exclude each other"),
        ({"counts": [1] * 4}, "counts has 4 numbers for 5 classes"),
        ({"counts": [1, 1, 1, 1, 0.5]}, r"counts must be whole numbers >= 0, got 0\.5"),
        ({"counts": {"tre": 1}}, "unknown class in counts 'tre'.* did you mean 'tree'"),
        ({"counts": {"tree": 1}}, "counts lack 4 of 5 classes, the first 'house'"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(source, arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        make_long_tailed(source, **arguments)
    assert "\n" not in str(caught.value)


# Folders


def test_a_saved_draw_is_read_back_with_the_bytes_of_its_images(source, tmp_path):
    draw = make_long_tailed(source, max_count=60, seed=2)
    draw.save(tmp_path / "drawn")
    loaded = load_images(tmp_path / "drawn", cache_dir=tmp_path / "cache")
    assert list(loaded) == ["train", "validation", "test"]
    for name, split in loaded.items():
        assert split["image_id"][:] == draw.dataset[name]["image_id"][:]
        assert (label_matrix(split) == label_matrix(draw.dataset[name])).all()
        for image_id, image in zip(split["image_id"][:], split["image"][:], strict=True):
            assert image["bytes"] == b"picture %d" % int(image_id.removeprefix("id"))
    assert json.loads((tmp_path / "drawn" / "report.json").read_text()) == json.loads(json.dumps(draw.report()))
    plain = datasets.load_dataset(str(tmp_path / "drawn"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in plain.items()} == draw.report()["images"]
    assert isinstance(plain["train"].features["image"], datasets.Image)
    assert (
        "| class | available | target | train | validation | test |" in (tmp_path / "drawn" / "README.md").read_text()
    )


def test_large_splits_are_written_in_shards(source, tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_cssfe.data.long_tail.folder._SHARD_BYTES", 1)
    make_long_tailed(source, max_count=60).save(tmp_path / "drawn")
    assert len(list((tmp_path / "drawn" / "data").glob("test-0000?-of-00003.parquet"))) == 3
    loaded = load_images(tmp_path / "drawn", cache_dir=tmp_path / "cache")
    assert sum(len(split) for split in loaded.values()) == 600


def test_a_folder_is_written_whole_or_not_at_all(source, tmp_path):
    draw = make_long_tailed(source, max_count=60)
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="there' exists; remove it, or name another folder"):
        draw.save(tmp_path / "there")
    gone = source.map(lambda row: {"image": {"bytes": None, "path": str(tmp_path / "gone.png")}})
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        make_long_tailed(gone, max_count=60).save(tmp_path / "new")
    assert [file.name for file in tmp_path.iterdir()] == ["there"]


@pytest.fixture(scope="module")
def script():
    file = Path(__file__).parents[2] / "data_scripts" / "make_long_tailed.py"
    specification = importlib.util.spec_from_file_location("make_long_tailed_script", file)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_script_draws_prints_and_writes(script, source, tmp_path, capsys):
    make_long_tailed(source, max_count=300).save(tmp_path / "all")
    arguments = ["--data", str(tmp_path / "all"), "--split", "all", "--max_count", "40", "--seed", "3"]
    assert script.main([*arguments, "--output_dir", str(tmp_path / "lt")]) == 0
    printed = capsys.readouterr().out
    assert "Images of each class" in printed
    assert "exact, optimal; deviation 0" in printed
    report = json.loads((tmp_path / "lt" / "report.json").read_text())
    assert [row["target"] for row in report["classes"]] == pareto_counts(5, 40).tolist()
    for row in report["classes"]:
        assert f" {row['target']} " in next(line for line in printed.splitlines() if f" {row['name']} " in line)
    assert load_images(tmp_path / "lt", cache_dir=tmp_path / "cache")["train"].num_rows == report["images"]["train"]
    (tmp_path / "counts.json").write_text(json.dumps(dict.fromkeys(NAMES, 9)))
    arguments = [*arguments[:4], "--counts", str(tmp_path / "counts.json"), "--output_dir", str(tmp_path / "even")]
    assert script.main(arguments) == 0
    assert {row["train"] for row in json.loads((tmp_path / "even" / "report.json").read_text())["classes"]} == {9}


def test_the_script_reads_tables_as_its_options_say(script, tmp_path, write_image, capsys):
    rows = ["dog,", "dog,1", "cat,0", "cat,1"]
    for index in range(4):
        write_image(tmp_path / "set" / f"{index}.png")
    cells = "".join(f"{index}.png,{row}\n" for index, row in enumerate(rows))
    (tmp_path / "set" / "metadata.csv").write_text(f"file_name,kind,other\n{cells}")
    arguments = ["--data", str(tmp_path / "set"), "--max_count", "1", "--output_dir", str(tmp_path / "lt")]
    assert script.main(arguments) == 2
    assert "labels_column" in capsys.readouterr().err
    assert script.main([*arguments, "--labels_column", "kind"]) == 0
    report = json.loads((tmp_path / "lt" / "report.json").read_text())
    assert {row["name"]: row["train"] for row in report["classes"]} == {"dog": 1, "cat": 1}


@pytest.mark.parametrize(("text", "message"), [("{bad", "is no JSON"), (None, "there is no file of counts")])
def test_a_broken_file_of_counts_is_named(text, message, script, source, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(script, "load_images", lambda *_, **__: datasets.DatasetDict(train=source))
    file = tmp_path / "counts.json"
    if text is not None:
        file.write_text(text)
    assert script.main(["--data", "x", "--counts", str(file), "--output_dir", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "counts.json" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output_dir", "{new}"], "--data"),
        (["--data", "{missing}", "--output_dir", "{new}"], "there is no"),
        (["--data", "{missing}", "--output_dir", "{tmp}", "--max_count", "3"], "exists; remove it"),
        (["--data", "{missing}", "--output_dir", "{new}", "--method", "best"], "invalid choice"),
    ],
)
def test_the_script_refuses_wrong_arguments_in_one_line_with_code_2(script, arguments, message, tmp_path, capsys):
    places = {"new": tmp_path / "new", "missing": tmp_path / "missing", "tmp": tmp_path}
    assert script.main([argument.format(**places) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_of_the_script_is_one_line_with_code_1_and_leaves_nothing(
    script, source, failure, tmp_path, capsys, monkeypatch
):
    def fail(*_):
        raise failure

    monkeypatch.setattr(script, "load_images", lambda *_, **__: datasets.DatasetDict(train=source))
    monkeypatch.setattr("modeling_cssfe.data.long_tail.folder._card", fail)
    assert script.main(["--data", "x", "--max_count", "20", "--output_dir", str(tmp_path / "new")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("disk full" in error) or ("interrupted; nothing was left" in error)
    assert list(tmp_path.iterdir()) == []


RECORDED = {
    "greedy": "0a7924dc6c18529bec2425b6c6fa38652a7da5801c9ce3218498fd49a6d6b76d",
    "exact": "3c8a27c21a4ee48b6d0b4fe221370526c56b1e464dcbedc11f96f47ed88f41a8",
}
