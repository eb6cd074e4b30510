# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
from pathlib import Path

import pytest

from modeling_cssfe.data.readers.splits import files_by_split, in_order, split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train-00000-of-00001", "train"),
        ("Training", "train"),
        ("valid", "validation"),
        ("my_set-val", "validation"),
        ("instances_val2017", "validation"),
        ("dev.v2", "validation"),
        ("test2017", "test"),
        ("trainval", None),
        ("contest", None),
        ("images", None),
    ],
)
def test_the_split_is_read_off_whole_words(name, split):
    assert split_of(name) == split


def test_a_name_of_two_splits_is_refused():
    with pytest.raises(ValueError, match=r"'train_test' names several splits \(test, train\)"):
        split_of("train_test")


def test_files_are_grouped_with_train_first():
    files = [Path(name) for name in ("test.parquet", "val.parquet", "train-00001-of-00002.parquet")]
    groups = files_by_split([*files, Path("train-00000-of-00002.parquet")])
    assert {split: [file.name for file in members] for split, members in groups.items()} == {
        "train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        "validation": ["val.parquet"],
        "test": ["test.parquet"],
    }
    assert list(groups) == ["train", "validation", "test"]
    assert files_by_split([Path("b.parquet"), Path("a.parquet")]) == {"train": [Path("a.parquet"), Path("b.parquet")]}
    assert list(in_order({"extra": 1, "test": 2, "train": 3})) == ["train", "test", "extra"]


def test_a_missing_shard_and_a_file_without_a_split_are_refused():
    with pytest.raises(ValueError, match=r"1 of 3 files of a split are missing, the first 'train-00001-of-00003"):
        files_by_split([Path("train-00000-of-00003.parquet"), Path("train-00002-of-00003.parquet")])
    with pytest.raises(ValueError, match=r"'extra\.parquet' names no split beside files that do"):
        files_by_split([Path("train.parquet"), Path("extra.parquet")])
