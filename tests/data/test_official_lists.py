# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import hashlib
import json
import struct
from collections import Counter
from pathlib import Path

import pytest

from modeling_cssfe.configuration_cssfe import assign_groups
from modeling_cssfe.data.builders.official_lists import (
    COCO_NAMES,
    LT_COCO_LISTS,
    LT_VOC_LISTS,
    VOC_NAMES,
    load_lists,
    parse_list,
)


SHARED = Path(__file__).parents[3] / "shared" / "data"
BENCHMARKS = {"lt_voc": (LT_VOC_LISTS, VOC_NAMES), "lt_coco": (LT_COCO_LISTS, COCO_NAMES)}
# As the papers of the field print them: images of train and test, and classes in head, medium and tail.
PUBLISHED = {"lt_voc": (1142, 4952, (6, 6, 8)), "lt_coco": (1909, 5000, (22, 33, 25))}


@pytest.fixture(scope="module")
def published_lists():
    if not (SHARED / "lt_lists" / "voc_lt_train.txt").is_file():
        pytest.skip("../shared/data/lt_lists is not here")
    return SHARED / "lt_lists"


class NoDownloads:
    """In place of a download manager: answers nothing."""

    def download(self, url):
        raise ConnectionError(f"no network for {url}")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_known_counts_have_the_published_groups(name):
    official, names = BENCHMARKS[name]
    groups = Counter(assign_groups(official["train"].counts))
    assert (groups["head"], groups["medium"], groups["tail"]) == PUBLISHED[name][2]
    assert (official["train"].images, official["test"].images) == PUBLISHED[name][:2]
    assert len(names) == len(set(names)) == len(official["train"].counts) == len(official["test"].counts)


def test_the_known_counts_of_classes_that_papers_name():
    train = dict(zip(VOC_NAMES, LT_VOC_LISTS["train"].counts, strict=True))
    assert (train["person"], train["chair"], train["pottedplant"], train["cow"]) == (775, 479, 100, 4)
    assert dict(zip(VOC_NAMES, LT_VOC_LISTS["test"].counts, strict=True))["person"] == 2097
    train = dict(zip(COCO_NAMES, LT_COCO_LISTS["train"].counts, strict=True))
    assert (train["person"], train["backpack"], train["bear"], train["hair drier"]) == (1128, 100, 6, 6)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_line_of_the_published_lists_counts(name, published_lists):
    official, names = BENCHMARKS[name]
    images, digests = load_lists(official, names, published_lists, NoDownloads())
    for split, entry in official.items():
        content = (published_lists / entry.file).read_bytes()
        assert digests[entry.file] == entry.sha256 == hashlib.sha256(content).hexdigest()
        lines = [line.split() for line in content.decode().splitlines()]
        counts = Counter(int(label) for _, *labels in lines for label in labels)
        assert len(images[split]) == len(lines) == PUBLISHED[name][split == "test"]
        assert [counts[label] for label in range(len(names))] == list(entry.counts)
        for image, (path, *labels) in zip(images[split], lines, strict=True):
            assert (image.name, set(image.labels)) == (path, {int(label) for label in labels})
    if name == "lt_coco":
        assert sum(not image.labels for image in images["test"]) == 48


@pytest.mark.parametrize(("name", "file"), [("lt_voc", "voc20_glove"), ("lt_coco", "coco80_glove")])
def test_label_names_are_in_the_field_s_order(name, file):
    path = SHARED / "label_embeddings" / f"{file}.safetensors"
    if not path.is_file():
        pytest.skip("../shared/data/label_embeddings is not here")
    with path.open("rb") as content:
        header = json.loads(content.read(struct.unpack("<Q", content.read(8))[0]))
    assert list(BENCHMARKS[name][1]) == json.loads(header["__metadata__"]["label_names"])


def test_a_list_without_network_says_what_to_do():
    with pytest.raises(ConnectionError, match=r"CPRFL/HEAD/data/voc/voc_lt_train\.txt.*pass lists=FOLDER"):
        load_lists(LT_VOC_LISTS, VOC_NAMES, None, NoDownloads())


def test_a_downloaded_list_that_is_wrong_does_not_stay_in_the_cache(tmp_path):
    class Truncated:
        def download(self, url):
            file = tmp_path / url.rsplit("/", 1)[1]
            file.write_text("VOCdevkit/VOC2012/JPEGImages/2008_000023.jpg 14\n")
            return str(file)

    with pytest.raises(ValueError, match="has the sha256"):
        load_lists(LT_VOC_LISTS, VOC_NAMES, None, Truncated())
    assert list(tmp_path.iterdir()) == []


def test_lists_are_downloaded_from_their_repository(published_lists):
    asked = []

    class Local:
        def download(self, url):
            asked.append(url)
            return str(published_lists / url.rsplit("/", 1)[1])

    images, _ = load_lists(LT_VOC_LISTS, VOC_NAMES, None, Local())
    assert len(images["train"]) == 1142
    assert asked == [
        f"https://raw.githubusercontent.com/jiexuanyan/CPRFL/HEAD/data/voc/voc_lt_{split}.txt"
        for split in ("train", "test")
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 0 one", "line 1: 'a.jpg 0 one' is no image name"),
        ("a.jpg 0\nb.jpg -1", "line 2: 'b.jpg -1'"),
        ("a.jpg 3", "line 1: class 3 does not exist; with 3 classes"),
        ("a.jpg 1 1", "line 1: a class number is there twice"),
        ("a.jpg 1\na.jpg 2", "line 2: the image 'a.jpg' is listed twice"),
        ("\n\n", "lists no image"),
    ],
)
def test_a_bad_line_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_list(text, 3, "list.txt")


def test_trailing_spaces_and_any_order_of_classes_are_read():
    assert parse_list("b.jpg 2 0 \n\na.jpg \n", 3, "list.txt") == [("b.jpg", (0, 2)), ("a.jpg", ())]
