# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import os

import pytest

from modeling_cssfe.inference import find_images
from modeling_cssfe.inference.files import printable


@pytest.fixture
def tree(tmp_path):
    for name in ("b.png", "a.JPG", "notes.txt", "z/1.webp", "z/deep/2.avif", "z-1/0.tif", "with [brackets].png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def names(found, tree):
    return [os.path.relpath(file, tree) for file in found]


def test_a_folder_stands_for_its_images_sorted_folder_by_folder(tree):
    everything = ["a.JPG", "b.png", "with [brackets].png", "z/1.webp", "z/deep/2.avif", "z-1/0.tif"]
    assert names(find_images([tree]), tree) == everything
    assert names(find_images([tree / "z", str(tree / "b.png")]), tree) == ["z/1.webp", "z/deep/2.avif", "b.png"]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_links_to_folders_are_followed_and_not_round_in_circles(tree, tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    (place / "ward").symlink_to(tree / "z", target_is_directory=True)
    (tree / "z" / "up").symlink_to(tree, target_is_directory=True)
    (tree / "z" / "self").symlink_to(tree / "z", target_is_directory=True)
    found = names(find_images([place]), place)
    assert [name for name in found if "up" not in name] == ["ward/1.webp", "ward/deep/2.avif"]
    # Through the link upwards come the other images of the tree, and nothing twice.
    assert sorted(os.path.realpath(place / name) for name in found) == sorted(
        str(tree / name) for name in ("b.png", "a.JPG", "z/1.webp", "z/deep/2.avif", "z-1/0.tif", "with [brackets].png")
    )


def test_a_file_is_taken_whatever_its_ending_and_as_often_as_it_is_named(tree):
    assert names(find_images([tree / "notes.txt", tree / "notes.txt"]), tree) == ["notes.txt", "notes.txt"]
    assert names(find_images([tree / "with [brackets].png"]), tree) == ["with [brackets].png"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.png", ["b.png", "with [brackets].png"]),
        ("z*", ["z/1.webp", "z/deep/2.avif", "z-1/0.tif"]),
        ("**/*.[tw]*", ["z/1.webp", "z-1/0.tif"]),
        ("z/**", ["z/1.webp", "z/deep/2.avif"]),
    ],
)
def test_a_pattern_stands_for_what_fits_it(tree, pattern, expected):
    if pattern.startswith("**"):
        os.remove(tree / "notes.txt")
    assert names(find_images([tree / pattern]), tree) == expected


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("nowhere.png", FileNotFoundError, "no image '.*nowhere.png'"),
        ("no*where", ValueError, "no image fits the pattern"),
        ("empty", ValueError, "holds no images"),
    ],
)
def test_what_is_not_there_is_named(tmp_path, path, error, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        find_images([tmp_path / path])


@pytest.mark.parametrize(
    "address", ["http://localhost/a.png", "HTTPS://example.org/x.jpg", "file:///a.png", "s3://a/b"]
)
def test_addresses_are_refused_in_one_line(address):
    with pytest.raises(ValueError, match="address of the web, which is not opened") as caught:
        find_images([address])
    assert "\n" not in str(caught.value)


def test_a_name_that_is_no_utf8_can_be_found_and_printed(tmp_path):
    try:
        (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    [found] = find_images([tmp_path])
    assert os.path.exists(found)
    assert printable(found) == os.path.join(str(tmp_path), "caf\\xe9.png")
    assert printable("größe.png") == "größe.png"


def test_a_folder_that_may_not_be_read_is_an_error_and_no_gap(tree, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root, as which tests may run, may read everything
    with pytest.raises(PermissionError, match="deep"):
        find_images([tree])
