# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import copy
import json

import pytest

from modeling_cssfe.data import class_statistics, decode_image, load_images


# Ids are not in the order of names and have gaps, as in COCO itself.
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "zebra"}, {"id": 90, "name": "hair drier"}]
ORDER = ("zebra", "dog", "hair drier")
TRAIN = {
    "info": {},
    "categories": CATEGORIES,
    "images": [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}, {"id": 4, "file_name": "c.png"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 18, "iscrowd": 0, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 7, "category_id": 18, "iscrowd": 1, "bbox": [0, 0, 1, 1]},
        {"id": 3, "image_id": 7, "category_id": 3, "iscrowd": 1, "bbox": [0, 0, 1, 1]},
        {"id": 4, "image_id": 4, "category_id": 90, "bbox": [0, 0, 1, 1]},
    ],
}


@pytest.fixture
def coco(tmp_path, write_image):
    """The layout of COCO 2017."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        for index, name in enumerate("abc"):
            write_image(root / split / f"{name}.png", seed=index)
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(TRAIN))
        (root / "annotations" / f"captions_{split}.json").write_text(json.dumps({**TRAIN, "categories": []}))
    return root


def names(dataset, column="labels"):
    labels = dataset.features[column].feature.names
    return {key: {labels[i] for i in row} for key, row in zip(dataset["image_id"], dataset[column], strict=True)}


def test_the_official_layout_loads_with_categories_by_id(coco):
    loaded = load_images(coco)
    assert list(loaded) == ["train", "validation"]
    statistics = class_statistics(loaded["train"])
    assert statistics.label_names == ORDER
    assert names(loaded["train"]) == {"7": {"dog", "zebra"}, "9": set(), "4": {"hair drier"}}
    assert loaded["train"][0]["image"] == {"bytes": None, "path": str(coco.resolve() / "train2017" / "a.png")}
    assert loaded["validation"][0]["image"]["path"].endswith("val2017/a.png")
    assert decode_image(loaded["train"][0]["image"]).size == (12, 10)


def test_crowds_count_as_the_option_says(coco):
    file = coco / "annotations" / "instances_train2017.json"
    assert names(load_images(file, difficult="ignore")["train"])["7"] == {"dog"}
    unknown = load_images(file, difficult="unknown")["train"]
    assert names(unknown)["7"] == {"dog"}
    # A dog stands apart from the crowd of dogs, so that only the zebra is unknown.
    assert names(unknown, "unknown_labels")["7"] == {"zebra"}


def test_images_beside_the_file_and_in_a_named_folder_are_found(coco, tmp_path):
    file = coco / "train2017" / "_annotations.coco.json"
    (coco / "annotations" / "instances_train2017.json").rename(file)
    assert len(load_images(file)["train"]) == 3
    (coco / "annotations" / "instances_val2017.json").rename(tmp_path / "val.json")
    assert len(load_images(tmp_path / "val.json", image_root=coco / "val2017")["validation"]) == 3
    with pytest.raises(FileNotFoundError, match=r"names the image 'a\.png', which is in none of .*pass image_root="):
        load_images(tmp_path / "val.json")


def test_a_linked_image_folder_must_be_asked_for(coco, tmp_path):
    (coco / "train2017").rename(tmp_path / "elsewhere")
    (coco / "train2017").symlink_to(tmp_path / "elsewhere")
    file = coco / "annotations" / "instances_train2017.json"
    with pytest.raises(ValueError, match=r"train2017 is a link that leads out of"):
        load_images(file)
    assert len(load_images(file, image_root=coco / "train2017")["train"]) == 3


def test_one_folder_a_split_with_its_own_file_loads(coco, tmp_path):
    for source, split in (("train2017", "train"), ("val2017", "valid")):
        (coco / source).rename(tmp_path / split)
        (coco / "annotations" / f"instances_{source}.json").rename(tmp_path / split / "_annotations.coco.json")
    for path in (coco / "annotations").iterdir():
        path.unlink()
    (coco / "annotations").rmdir()
    coco.rmdir()
    assert {split: len(images) for split, images in load_images(tmp_path).items()} == {"train": 3, "validation": 3}


def spoil(change):
    data = copy.deepcopy(TRAIN)
    change(data)
    return json.dumps(data)


BAD = {
    "no JSON": ("{", "is no JSON"),
    "another JSON": ("[]", "has no list 'images'"),
    "no categories": (spoil(lambda d: d.pop("categories")), "has no list 'categories'"),
    "no images": (spoil(lambda d: d["images"].clear()), "lists no images"),
    "one name twice": (spoil(lambda d: d["categories"][0].update(name="zebra")), "two labels named 'zebra'"),
    "one category id twice": (spoil(lambda d: d["categories"][0].update(id=3)), "two categories have one id"),
    "a category without a name": (spoil(lambda d: d["categories"][0].pop("name")), "a category lacks an id or a name"),
    "an unknown category": (spoil(lambda d: d["annotations"][0].update(category_id=5)), "category id 5, which is not"),
    "an unknown image": (spoil(lambda d: d["annotations"][0].update(image_id=5)), "image id 5, which is not listed"),
    "one image id twice": (spoil(lambda d: d["images"][1].update(id=7)), "two images have the id 7"),
    "no file name": (spoil(lambda d: d["images"][1].pop("file_name")), "lacks the key 'file_name'"),
    "no image id": (spoil(lambda d: d["annotations"][0].pop("image_id")), "lacks the key 'image_id'"),
    "a path outside": (spoil(lambda d: d["images"][1].update(file_name="../val2017/b.png")), "leads out of"),
    "one file twice": (spoil(lambda d: d["images"][1].update(file_name="a.png")), "twice; keep one"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line_errors_that_name_the_file(case, coco):
    text, message = BAD[case]
    file = coco / "annotations" / "instances_train2017.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_images(file)
    assert "instances_train2017.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_image_is_named(coco):
    (coco / "train2017" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"names the image 'b\.png', which"):
        load_images(coco)


def test_splits_with_other_categories_and_two_files_of_a_split_are_refused(coco):
    file = coco / "annotations" / "instances_val2017.json"
    file.write_text(spoil(lambda d: d["categories"][2].update(name="drier")))
    with pytest.raises(ValueError, match=r"other categories than the other split.*drier"):
        load_images(coco)
    file.rename(file.with_name("instances_train.json"))
    with pytest.raises(ValueError, match="two annotation files of the split 'train'"):
        load_images(coco)


def test_a_label_that_the_caller_does_not_know_is_refused(coco):
    with pytest.raises(ValueError, match="unknown label 'hair drier'"):
        load_images(coco, label_names=["dog", "zebra"])
    assert class_statistics(load_images(coco, label_names=["hair drier", "dog", "zebra"])["train"]).class_counts == (
        1,
        1,
        1,
    )


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("images", {"id": [1], "file_name": "a.png"}),
        ("annotations", {"image_id": 7, "category_id": [18]}),
        ("annotations", {"image_id": {}, "category_id": 18}),
    ],
)
def test_an_id_of_a_wrong_type_is_one_line(part, entry, coco):
    content = {**TRAIN, part: [*TRAIN[part], entry]}
    file = coco / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"instances_train2017\.json: the id of an image or category is neither"):
        load_images(file)


def test_a_file_name_that_is_a_number_is_looked_for(coco):
    file = coco / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps({**TRAIN, "images": [*TRAIN["images"], {"id": 1, "file_name": 5}]}))
    with pytest.raises(FileNotFoundError, match="names the image '5'"):
        load_images(file)


def test_a_folder_that_names_two_splits_does_not_stop_other_formats(coco):
    (coco / "train_val").mkdir()
    assert list(load_images(coco)) == ["train", "validation"]
