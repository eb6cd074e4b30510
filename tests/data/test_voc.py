# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import os

import pytest

from modeling_cssfe.data import class_statistics, load_images


def annotation(*objects: tuple[str, int]) -> str:
    """An annotation file as the devkit writes it; objects are (name, difficult)."""
    entries = "".join(
        f"<object><name>{name}</name><pose>Left</pose><truncated>1</truncated><difficult>{difficult}</difficult>"
        "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, difficult in objects
    )
    return f"<annotation><folder>VOC2007</folder><filename>000001.jpg</filename>{entries}</annotation>"


OBJECTS = {
    "000001": [("person", 0), ("person", 1), ("dog", 1)],
    "000002": [("chair", 0)],
    "000003": [("dog", 0)],
}


@pytest.fixture
def voc(tmp_path, write_image):
    """The layout of the VOC devkit."""
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for stem, objects in OBJECTS.items():
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        (root / "Annotations" / f"{stem}.xml").write_text(annotation(*objects))
    return root


def names(dataset, column="labels"):
    labels = dataset.features[column].feature.names
    return {key: {labels[i] for i in row} for key, row in zip(dataset["image_id"], dataset[column], strict=True)}


def test_a_devkit_is_found_from_any_of_its_folders(voc):
    for path in (voc, voc.parent, voc.parent.parent):
        loaded = load_images(path)
        assert list(loaded) == ["train"]
        assert names(loaded["train"]) == {"000001": {"person", "dog"}, "000002": {"chair"}, "000003": {"dog"}}
        assert class_statistics(loaded["train"]).label_names == ("chair", "dog", "person")


def test_difficult_objects_count_as_the_option_says(voc):
    assert names(load_images(voc, difficult="ignore")["train"])["000001"] == {"person"}
    unknown = load_images(voc, difficult="unknown")["train"]
    assert names(unknown)["000001"] == {"person"}
    # One person is not difficult, so that only the dog is unknown.
    assert names(unknown, "unknown_labels") == {"000001": {"dog"}, "000002": set(), "000003": set()}


def test_the_official_lists_make_the_splits(voc):
    lists = voc / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("000001\n000002\n")
    (lists / "test.txt").write_text("000003\n")
    (lists / "dog_train.txt").write_text("000001  1\n000002 -1\n")
    loaded = load_images(voc)
    assert {split: list(images["image_id"]) for split, images in loaded.items()} == {
        "train": ["000001", "000002"],
        "test": ["000003"],
    }
    (lists / "train.txt").write_text("000002\n")
    (lists / "val.txt").write_text("000001\n")
    loaded = load_images(voc)
    assert {split: list(images["image_id"]) for split, images in loaded.items()} == {
        "train": ["000002"],
        "validation": ["000001"],
        "test": ["000003"],
    }


def test_annotations_beside_images_load_too(tmp_path, write_image):
    for split in ("train", "valid"):
        write_image(tmp_path / split / "a.png")
        (tmp_path / split / "a.xml").write_text(annotation(("dog", 0)))
    assert {s: names(images) for s, images in load_images(tmp_path).items()} == {
        "train": {"a": {"dog"}},
        "validation": {"a": {"dog"}},
    }
    assert names(load_images(tmp_path / "train")["train"]) == {"a": {"dog"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", "is no XML"),
        ("", "is no XML"),
        ("<html></html>", "holds <html>, not a VOC <annotation>"),
        ("<annotation><object><difficult>0</difficult></object></annotation>", "an object without a name"),
        (annotation(("dgo", 0)), r"000002\.xml: unknown label 'dgo', did you mean 'dog'\?"),
    ],
)
def test_bad_annotations_are_one_line_errors_that_name_the_file(text, message, voc):
    (voc / "Annotations" / "000002.xml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_images(voc, label_names=["chair", "dog", "person"])
    assert "000002.xml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entities_are_not_expanded_from_files(voc, tmp_path):
    (tmp_path / "secret.txt").write_text("dog")
    (voc / "Annotations" / "000002.xml").write_text(
        f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret.txt">]>'
        "<annotation><object><name>&x;</name></object></annotation>"
    )
    with pytest.raises(ValueError, match=r"000002\.xml"):
        load_images(voc)


def test_two_images_for_one_annotation_are_refused(voc, write_image):
    write_image(voc / "JPEGImages" / "x.png").rename(voc / "JPEGImages" / "000005.bmp")
    write_image(voc / "JPEGImages" / "y.png").rename(voc / "JPEGImages" / "000005.png")
    with pytest.raises(ValueError, match=r"two images for the annotation of '000005'.*keep one"):
        load_images(voc)


def test_images_without_annotation_are_left_out_with_a_warning(tmp_path, write_image):
    for name in "ab":
        write_image(tmp_path / f"{name}.png")
    (tmp_path / "a.xml").write_text("<annotation><object><name>dog</name></object></annotation>")
    with pytest.warns(UserWarning, match=r"1 images have no XML file and are left out, the first 'b\.png'"):
        assert load_images(tmp_path)["train"]["image_id"][:] == ["a"]


def test_what_is_missing_is_named(voc):
    (voc / "ImageSets" / "Main" / "train.txt").write_text("000009\n")
    with pytest.raises(ValueError, match="no annotation for the image '000009' of its lists"):
        load_images(voc)
    (voc / "ImageSets" / "Main" / "train.txt").write_text("../../x\n")
    with pytest.raises(ValueError, match=r"no annotation for the image '\.\./\.\./x'"):
        load_images(voc)
    (voc / "ImageSets" / "Main" / "train.txt").unlink()
    (voc / "JPEGImages" / "000002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no image for 000002\.xml"):
        load_images(voc)


def test_a_list_that_is_no_text_is_named(voc):
    (voc / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xff\xfe0\x000\x00")
    with pytest.raises(ValueError, match=r"train\.txt is not UTF-8 text; save it as UTF-8"):
        load_images(voc)


def test_a_link_out_of_the_folder_is_refused(voc, tmp_path, write_image):
    write_image(tmp_path / "outside.jpg")
    (voc / "JPEGImages" / "000002.jpg").unlink()
    os.symlink(tmp_path / "outside.jpg", voc / "JPEGImages" / "000002.jpg")
    with pytest.raises(ValueError, match=r"000002\.jpg is a link that leads out of"):
        load_images(voc)


def test_two_devkit_years_and_no_annotations_are_refused(voc):
    (voc.parent / "VOC2012" / "Annotations").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds VOC2007, VOC2012; pass the path of one of them"):
        load_images(voc.parent)
    with pytest.raises(ValueError, match="holds no XML files"):
        load_images(voc.parent / "VOC2012")
