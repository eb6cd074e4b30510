# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import os
import shutil

import pytest

from modeling_cssfe.data import class_statistics, decode_image, load_images


NAMES = ["zebra", "dog", "hair drier"]  # not sorted: their numbers give the order
YAML = "path: .\ntrain: images/train\nval: images/val\ntest:  # none\nnc: 3\nnames:\n  0: zebra\n  1: dog\n  2: hair drier\n"  # noqa: E501
BOX = "0.5 0.5 0.2 0.3"
LABELS = {
    "a": f"1 {BOX}\n1 0.1 0.1 0.1 0.1\n0 {BOX}\n",
    "b": "",
    "c": f"2.0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2\r\n\r\n0 {BOX} 0.9\n",  # a polygon, and a box with a confidence
}
EXPECTED = {"a": {"dog", "zebra"}, "b": set(), "c": {"hair drier", "zebra"}, "d": set()}


@pytest.fixture
def yolo(tmp_path, write_image):
    """The layout of Ultralytics: images and labels in folders of their own, a folder a split; d has no label file."""
    root = tmp_path / "set"
    for split in ("train", "val"):
        for seed, name in enumerate(EXPECTED):
            write_image(root / "images" / split / f"{name}.png", seed=seed)
        (root / "labels" / split).mkdir(parents=True)
        for name, text in LABELS.items():
            (root / "labels" / split / f"{name}.txt").write_bytes(text.encode())
    (root / "data.yaml").write_text(YAML)
    return root


def named(dataset):
    names = dataset.features["labels"].feature.names
    return {
        key.rsplit("/")[-1].split(".")[0]: {names[i] for i in row}
        for key, row in zip(dataset["image_id"], dataset["labels"], strict=True)
    }


def check(loaded, splits=("train", "validation")):
    assert list(loaded) == list(splits)
    for images in loaded.values():
        assert named(images) == EXPECTED
        assert class_statistics(images).label_names == tuple(NAMES)


def test_the_layout_of_ultralytics_loads_with_classes_by_number(yolo):
    loaded = load_images(yolo)
    check(loaded)
    assert loaded["train"]["image_id"][0] == "images/train/a.png"
    assert loaded["train"][0]["image"] == {"bytes": None, "path": str(yolo.resolve() / "images" / "train" / "a.png")}
    assert decode_image(loaded["train"][0]["image"]).size == (12, 10)
    assert class_statistics(loaded["train"]).class_counts == (2, 1, 1)
    check(load_images(yolo / "data.yaml"))
    assert class_statistics(load_images(yolo, label_names=["ant", *NAMES])["train"]).class_counts == (0, 2, 1, 1)


@pytest.mark.parametrize(
    "text",
    [
        "train: images/train\nval: images/val\nnames: [zebra, dog, hair drier]\n",
        "train: ../images/train\nval: ../images/val\nnames: [zebra, dog, 'hair drier']\n",
        "path: ../datasets/set\ntrain: images/train\nvalid: images/val\nnames: [zebra, dog, hair drier]\n",
        "path: /on/another/machine\ntrain: [images/train]\nval: images/val\nnames: {2: hair drier, 0: zebra, 1: dog}\n",
        "path: {root}\ntrain: {root}/images/train\nval: images/val\nnames: [zebra, dog, hair drier]\n",
        "train: train.txt\nval: [lists/val1.txt, lists/val2.txt]\nnames: [zebra, dog, hair drier]\n",
    ],
)
def test_names_splits_and_folder_may_be_written_in_several_ways(text, yolo):
    (yolo / "lists").mkdir()
    (yolo / "train.txt").write_text("".join(f"./images/train/{name}.png\n" for name in "abcd"))
    (yolo / "lists" / "val1.txt").write_text("images/val/a.png\n../images/val/b.png\n")
    (yolo / "lists" / "val2.txt").write_text(f"{yolo.resolve()}/images/val/c.png\nimages/val/d.png")
    (yolo / "data.yaml").write_text(text.replace("{root}", str(yolo.resolve())))
    check(load_images(yolo))


def test_images_and_labels_may_lie_below_each_split_or_beside_each_other(yolo, tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            shutil.copytree(yolo / kind / split, tmp_path / "roboflow" / split / kind)
            shutil.copytree(yolo / kind / split, tmp_path / "flat" / split, dirs_exist_ok=True)
    for name, folder in (("roboflow", "{}/images"), ("flat", "{}")):
        lines = [f"train: {folder.format('train')}", f"val: {folder.format('val')}", "names: [zebra, dog, hair drier]"]
        (tmp_path / name / "own_set.yaml").write_text("\n".join(lines))
        check(load_images(tmp_path / name))
        (tmp_path / name / "own_set.yaml").unlink()
        (tmp_path / name / "classes.txt").write_text("zebra\ndog\nhair drier\n\n")
        check(load_images(tmp_path / name))


def test_classes_in_a_text_file_serve_without_yaml(yolo):
    (yolo / "data.yaml").unlink()
    (yolo / "labels" / "classes.txt").write_text("zebra\r\ndog\r\nhair drier\r\n")
    check(load_images(yolo))
    for kind in ("images", "labels"):
        shutil.rmtree(yolo / kind / "val")
        for path in (yolo / kind / "train").iterdir():
            path.rename(yolo / kind / path.name)
        (yolo / kind / "train").rmdir()
    check(load_images(yolo), ["train"])


def test_the_folder_of_images_may_be_given_apart_from_the_file(yolo, tmp_path):
    file = tmp_path / "elsewhere" / "data.yaml"
    file.parent.mkdir()
    shutil.move(yolo / "data.yaml", file)
    file.write_text(YAML.replace("path: .", "path: ../set"))
    with pytest.raises(ValueError, match=r"the path '\.\./set', which is no folder inside .*; pass image_root="):
        load_images(file)
    check(load_images(file, image_root=yolo))


def test_class_numbers_may_have_gaps(yolo):
    (yolo / "data.yaml").write_text("train: images/train\nnames: {7: dog, 3: zebra}\n")
    for name, text in {"a": f"7 {BOX}", "c": f"3 {BOX}"}.items():
        (yolo / "labels" / "train" / f"{name}.txt").write_text(text)
    loaded = load_images(yolo)["train"]
    assert class_statistics(loaded).label_names == ("zebra", "dog")
    assert named(loaded) == {"a": {"dog"}, "b": set(), "c": {"zebra"}, "d": set()}
    (yolo / "labels" / "train" / "c.txt").write_text(f"4 {BOX}")
    with pytest.raises(ValueError, match="class number 4 has no name; there are 2 names, numbered 3 to 7"):
        load_images(yolo)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"0 {BOX}\n3 {BOX}\n", r"line 2: class number 3 has no name; there are 3 names, numbered 0 to 2"),
        (f"-1 {BOX}", r"line 1 begins with '-1'; a line is a class number"),
        (f"dog {BOX}", r"line 1 begins with 'dog'"),
        (f"0.5 {BOX}", r"line 1 begins with '0\.5'"),
        (f"nan {BOX}", r"line 1 begins with 'nan'"),
        (f"inf {BOX}", r"line 1 begins with 'inf'"),
        ("1 0.5 0.5", r"line 1 has 2 numbers after the class; a box has 4"),
        (b"\xff\xfe\x00", r"is not UTF-8 text"),
    ],
)
def test_bad_label_files_are_one_line_errors_that_name_file_and_line(text, message, yolo):
    (yolo / "labels" / "train" / "b.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=message) as caught:
        load_images(yolo)
    assert "b.txt" in str(caught.value)
    assert "\n" not in str(caught.value)


SPLITS = "train: images/train\nval: images/val\n"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("names: [a, b\n", ValueError, "is no YAML"),
        ("just text", ValueError, "holds no keys"),
        ("", ValueError, "holds no keys"),
        (SPLITS, ValueError, "has no class names"),
        (SPLITS + "names: []", ValueError, "has no class names"),
        (SPLITS + "names: [zebra, dog, zebra]", ValueError, "two labels named 'zebra'"),
        (SPLITS + "names: {0: zebra, 0: dog, 1: ant}", ValueError, "the key '0' twice"),
        (SPLITS + "names: [zebra, no, dog]", ValueError, "class 1 is called False; write its name in quotes"),
        (SPLITS + "names: [zebra, , dog]", ValueError, "is no YAML|class 1 is called None"),
        (SPLITS + "names: {zero: zebra}", ValueError, "the class number 'zero' is none"),
        (SPLITS + "names: {-1: zebra}", ValueError, "the class number -1 is none"),
        (SPLITS + "nc: 4\nnames: [zebra, dog, ant]", ValueError, "has 3 names but says nc: 4"),
        (SPLITS + "valid: images/val\nnames: [a, b, c]", ValueError, "two keys for the split 'validation'"),
        (SPLITS + "train: images/val\nnames: [a, b, c]", ValueError, "the key 'train' twice"),
        ("names: [zebra, dog, ant]", ValueError, "names no images; add the key train"),
        ("train: images/trian\nnames: [a, b, c]", FileNotFoundError, "names 'images/trian', which"),
        ("train: ../outside\nnames: [a, b, c]", ValueError, r"'\.\./outside' leads out of"),
        ("train: /etc\nnames: [a, b, c]", ValueError, "'/etc' leads out of"),
        ("train: linked\nnames: [a, b, c]", ValueError, "'linked' leads out of"),
        ("train: list.txt\nnames: [a, b, c]", FileNotFoundError, r"'images/train/gone\.png'"),
        ("train: out.txt\nnames: [a, b, c]", ValueError, r"secret\.png leads out of"),
        ("train: twice.txt\nnames: [a, b, c]", ValueError, "twice; keep one of the two"),
        ("train: labels\nnames: [a, b, c]", ValueError, "split 'train' has no image in"),
        ("train: bare\nnames: [a, b, c]", FileNotFoundError, r"no image of the split 'train' has a label file"),
        ('!!python/object/apply:os.system ["true"]', ValueError, "is no YAML"),
    ],
)
def test_bad_data_files_are_one_line_errors(text, error, message, yolo, tmp_path, write_image):
    write_image(tmp_path / "outside" / "secret.png")
    write_image(yolo / "bare" / "e.png")
    (yolo / "linked").symlink_to(tmp_path / "outside")
    for name, line in (("list", "images/train/gone.png"), ("out", "../outside/secret.png")):
        (yolo / f"{name}.txt").write_text(line)
    (yolo / "twice.txt").write_text("images/train/a.png\nimages/train/a.png\n")
    (yolo / "data.yaml").write_text(text)
    with pytest.raises(error, match=message) as caught:
        load_images(yolo)
    assert "\n" not in str(caught.value)


def test_links_out_of_the_folder_are_refused_and_those_inside_keep_their_labels(yolo, tmp_path, write_image):
    os.symlink(yolo / "images" / "train" / "d.png", yolo / "images" / "val" / "e.png")
    (yolo / "labels" / "val" / "e.txt").write_text(f"1 {BOX}")
    assert named(load_images(yolo)["validation"]) == {**EXPECTED, "e": {"dog"}}
    write_image(tmp_path / "outside.png")
    os.symlink(tmp_path / "outside.png", yolo / "images" / "train" / "f.png")
    with pytest.raises(ValueError, match=r"'images/train/f\.png' leads out of"):
        load_images(yolo)
    (yolo / "images" / "train" / "f.png").unlink()
    (tmp_path / "outside.txt").write_text(f"1 {BOX}")
    os.symlink(tmp_path / "outside.txt", yolo / "labels" / "train" / "d.txt")
    with pytest.raises(ValueError, match=r"d\.txt is a link that leads out of"):
        load_images(yolo)


def test_a_broken_link_is_no_image_without_labels(yolo):
    os.symlink(yolo / "gone.txt", yolo / "labels" / "train" / "d.txt")
    with pytest.raises(FileNotFoundError, match=r"d\.txt is a broken link or a folder"):
        load_images(yolo)


def test_a_label_file_without_its_image_is_named(yolo):
    (yolo / "images" / "train" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"images/train has no image for .*labels/train/b\.txt"):
        load_images(yolo)


def test_two_data_files_and_two_folders_of_a_split_are_a_question_to_the_user(yolo):
    (yolo / "data.yaml").rename(yolo / "one.yaml")
    shutil.copy(yolo / "one.yaml", yolo / "two.yml")
    with pytest.raises(ValueError, match=r"holds one\.yaml, two\.yml; pass the path of one of them"):
        load_images(yolo)
    check(load_images(yolo / "two.yml"))
    for name in ("one.yaml", "two.yml"):
        (yolo / name).unlink()
    (yolo / "classes.txt").write_text("zebra\ndog\nhair drier\n")
    shutil.copytree(yolo / "images" / "val", yolo / "images" / "valid")
    with pytest.raises(ValueError, match="two folders of the split 'validation'"):
        load_images(yolo)


def test_a_yaml_file_of_something_else_is_not_taken_for_a_data_set(yolo):
    (yolo / "data.yaml").unlink()
    (yolo / "settings.yaml").write_text("batch: 4\n")
    with pytest.raises(ValueError, match=r"holds no data that can be read; pass 'lt_digits'.*YOLO text"):
        load_images(yolo)
    with pytest.raises(FileNotFoundError, match=r"there is no 'coco8\.yaml'"):
        load_images("coco8.yaml")
