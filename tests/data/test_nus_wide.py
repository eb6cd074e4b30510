# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import numpy as np
import pytest
from devkits import jpeg

from modeling_cssfe.data.builders.nus_wide import NUSWIDE


CONCEPTS = [f"concept{index:02d}" for index in range(81)]
NAMES = [
    f"{folder}\\{index:04d}_{900 + index}.jpg" for index in range(30) for folder in ("actor" if index % 2 else "sky",)
]
LABELS = np.random.default_rng(0).random((81, 30)) < 0.1
TRAIN, TEST = NAMES[:20], NAMES[20:]


@pytest.fixture
def nus_wide(tmp_path):
    root = tmp_path / "nus"
    for folder in ("ConceptsList", "ImageList", "Groundtruth/AllLabels", "Flickr/actor", "Flickr/sky"):
        (root / folder).mkdir(parents=True)
    (root / "ConceptsList" / "Concepts81.txt").write_text("\r\n".join(CONCEPTS) + "\r\n")
    for file, names in (("Imagelist", NAMES), ("TrainImagelist", TRAIN), ("TestImagelist", TEST)):
        (root / "ImageList" / f"{file}.txt").write_text("\r\n".join(names) + "\r\n")
    for concept, row in zip(CONCEPTS, LABELS, strict=True):
        (root / "Groundtruth" / "AllLabels" / f"Labels_{concept}.txt").write_text("".join(f"{int(v)}\n" for v in row))
    for index, name in enumerate(NAMES):
        (root / "Flickr" / name.replace("\\", "/")).write_bytes(jpeg(index))
    return root


@pytest.fixture
def build(nus_wide, tmp_path):
    def prepared(**options):
        builder = NUSWIDE(root=str(nus_wide), cache_dir=str(tmp_path / "cache"), **options)
        builder.download_and_prepare()
        return builder.as_dataset(), builder.plan

    return prepared


def plain(name):
    return name.replace("\\", "/").removesuffix(".jpg")


def test_the_official_lists_make_the_splits_and_labels_follow_the_line_of_an_image(build):
    splits, _ = build(validation_share=0.2)
    assert set(splits["test"]["image_id"]) == {plain(name) for name in TEST}
    assert set(splits["train"]["image_id"]) | set(splits["validation"]["image_id"]) == {plain(name) for name in TRAIN}
    assert [len(splits[split]) for split in ("train", "validation", "test")] == [16, 4, 10]
    assert splits["train"].features["labels"].feature.names == CONCEPTS
    of_image = {plain(name): np.flatnonzero(LABELS[:, index]).tolist() for index, name in enumerate(NAMES)}
    for table in splits.values():
        for row in table:
            assert row["labels"] == of_image[row["image_id"]]
    assert splits["test"][0]["image"]["bytes"] == jpeg(20)


def test_images_in_one_flat_folder_give_the_same_set(build, nus_wide):
    by_folder, _ = build()
    (nus_wide / "Flickr").rename(nus_wide / "old")
    (nus_wide / "images").mkdir()
    for name in NAMES:
        folder, file = name.split("\\")
        (nus_wide / "old" / folder / file).rename(nus_wide / "images" / file)
    flat, _ = build()
    for split in by_folder:
        assert by_folder[split].to_dict() == flat[split].to_dict()


def test_missing_images_are_an_error_or_left_out_and_counted(build, nus_wide):
    for name in (TRAIN[3], TEST[1]):
        (nus_wide / "Flickr" / name.replace("\\", "/")).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of \d+ images of split '\w+' are missing"):
        build()
    splits, plan = build(missing_images="skip")
    assert sum(len(table) for table in splits.values()) == 28
    assert plan.sources["listed images that were missing and left out"] == "2"


def test_a_broken_ground_truth_is_named(build, nus_wide):
    labels = nus_wide / "Groundtruth" / "AllLabels" / "Labels_concept05.txt"
    content = labels.read_text()
    labels.write_text(content[:-2])
    with pytest.raises(ValueError, match=r"Labels_concept05\.txt must have 0 or 1 .* 30 images .* got 29 cells"):
        build()
    labels.write_text("7" + content[1:])
    with pytest.raises(ValueError, match=r"got 30 cells, among them '7'"):
        build()
    labels.unlink()
    with pytest.raises(FileNotFoundError, match=r"no Groundtruth/AllLabels/Labels_concept05\.txt"):
        build()


def test_a_list_that_names_an_unknown_image_is_an_error(build, nus_wide):
    (nus_wide / "ImageList" / "TestImagelist.txt").write_text("sky\\none.jpg\n")
    with pytest.raises(ValueError, match=r"TestImagelist\.txt names 'sky/none\.jpg', which Imagelist\.txt lacks"):
        build()


def test_two_concepts_of_one_name_are_refused(build, nus_wide):
    (nus_wide / "ConceptsList" / "Concepts81.txt").write_text("sky\nsky\n")
    with pytest.raises(ValueError, match="two labels named 'sky'"):
        build()


def test_options_out_of_range_are_refused(tmp_path):
    with pytest.raises(ValueError, match="missing_images must be one of error, skip, got 'maybe'"):
        NUSWIDE(root=str(tmp_path), missing_images="maybe")
    with pytest.raises(ValueError, match="validation_share must be above 0"):
        NUSWIDE(root=str(tmp_path), validation_share=0)
