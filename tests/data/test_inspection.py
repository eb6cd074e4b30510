# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import io
import itertools
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from modeling_cssfe.data import load_images, verify_images
from modeling_cssfe.data.inspection.inspect import inspect_images
from modeling_cssfe.data.inspection.plots import draw_inspection
from modeling_cssfe.data.readers.records import image_features


NAMES = ["a", "b", "c"]
# One head, one medium and one tail class with the bounds below, and nothing to find fault with.
SOUND = ["ab"] * 4 + ["a"] * 6 + ["ac"] * 2 + ["b"] * 4 + ["c"] * 4
JUDGED = ["ab", "c", "a", "bc"]
BOUNDS = {"head_min": 10, "tail_max": 7, "progress": False}


def split(rows, names=NAMES, images=None, unknown=None, ids=None):
    """A data set as `load_images` gives it; a row is a list of class numbers, or one letter a class."""
    numbers = [[NAMES.index(one) for one in row] if isinstance(row, str) else list(row) for row in rows]
    columns = {
        "image_id": ids or [f"i{number}" for number in range(len(rows))],
        "image": [{"bytes": data, "path": None} for data in (images or [b""] * len(rows))],
        "labels": numbers,
    }
    if unknown is not None:
        columns["unknown_labels"] = [list(row) for row in unknown]
    return datasets.Dataset.from_dict(columns, features=image_features(names, unknown is not None))


def photo(seed, size=(48, 40)):
    """Blobs of light and dark, which compress and shrink as photographs do."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image, image_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


# ---- counts ----------------------------------------------------------------------------------------------------------


def test_counts_are_those_of_a_slow_count():
    rng = np.random.default_rng(5)
    states = rng.choice([1, 0, -1], p=[0.3, 0.6, 0.1], size=(60, 7))
    states[3] = -1
    states[4] = 0
    present = [np.flatnonzero(row == 1) for row in states]
    table = split(present, [f"k{n}" for n in range(7)], unknown=[np.flatnonzero(row == -1) for row in states])
    inspection = inspect_images({"train": table}, read_images=False, **BOUNDS)
    entry = inspection.splits["train"]
    assert entry.num_images == 60
    assert entry.class_counts == tuple(sum(row[k] == 1 for row in states) for k in range(7)) == inspection.group_counts
    assert entry.unknown_counts == tuple(sum(row[k] == -1 for row in states) for k in range(7))
    together = {(a, b): sum(row[a] == row[b] == 1 for row in states) for a, b in itertools.combinations(range(7), 2)}
    assert {(a, b): count for a, b, count in entry.pairs} == {pair: n for pair, n in together.items() if n}
    lengths = [len(row) for row in present]
    assert entry.labels_per_image == tuple(lengths.count(n) for n in range(max(lengths) + 1))
    assert entry.unlabeled == sum(not (row != 0).any() for row in states) >= 1
    assert entry.fully_unknown == 1
    expected = [[sum(row[a] == row[b] == 1 for row in states) / sum(row[a] == 1 for row in states) for b in range(7)]
                for a in range(7)]  # fmt: skip
    np.testing.assert_allclose(entry.co_occurrence(), expected, rtol=0, atol=0)
    groups = ["head" if n >= 10 else "tail" if n < 7 else "medium" for n in entry.class_counts]
    assert list(inspection.groups) == groups


def test_a_label_that_is_listed_twice_counts_once():
    entry = inspect_images({"train": split([[0, 0, 1], [0]])}, read_images=False, progress=False).splits["train"]
    assert entry.class_counts == (2, 1, 0)
    assert entry.pairs == ((0, 1, 1),)
    assert entry.labels_per_image == (0, 1, 1)


def test_one_split_alone_is_grouped_by_the_training_counts():
    splits = {"train": split(SOUND), "validation": split(JUDGED), "test": split(JUDGED)}
    inspection = inspect_images(splits, split="test", read_images=False, **BOUNDS)
    assert list(inspection.splits) == ["test"]
    assert inspection.group_split == "train"
    assert inspection.groups == ("head", "medium", "tail")
    assert inspection.splits["test"].class_counts == (2, 2, 2)
    assert inspection.findings == ()


def test_wrong_arguments_are_one_line_errors():
    table = split(SOUND)
    with pytest.raises(ValueError, match="has no split 'tset'; it has train"):
        inspect_images({"train": table}, split="tset")
    with pytest.raises(ValueError, match="'train' and 'test' have different label names"):
        inspect_images({"train": table, "test": split([[0]], ["a", "b", "d"])})
    with pytest.raises(ValueError, match="there are no splits to inspect"):
        inspect_images({})
    with pytest.raises(ValueError, match="tail_max <= head_min"):
        inspect_images({"train": table}, head_min=3, tail_max=5, read_images=False)


# ---- images ----------------------------------------------------------------------------------------------------------


def test_properties_of_images_are_those_that_were_written():
    frames = [photo(n, (40, 40)) for n in (20, 21)]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter: width and height change places
    images = [
        encode(photo(0, (48, 40))),
        encode(photo(1, (64, 40)), "JPEG", quality=95, exif=exif),
        encode(photo(2, (30, 200)).convert("L")),
        encode(photo(3, (48, 40)).convert("CMYK"), "JPEG"),
        encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
    ]
    table = split(["a", "b", "c", "ab", "bc"], images=images)
    entry = inspect_images({"train": table}, num_threads=2, progress=False).splits["train"].images
    assert entry.num_checked == 5
    assert entry.unreadable == ()
    assert entry.num_bytes == sum(map(len, images))
    assert entry.formats == {"PNG": 2, "JPEG": 2, "GIF": 1}
    assert entry.modes == {"RGB": 2, "L": 1, "CMYK": 1, "P": 1}
    assert entry.animated == 1
    assert entry.width == (30, 40, 48)  # of 48, 40 (turned), 30, 48, 40
    assert entry.height == (40, 40, 200)  # of 40, 64 (turned), 200, 40, 40
    assert entry.num_sizes == 4
    assert (entry.large, entry.small, entry.elongated) == (0, 1, 1)


def test_unreadable_images_are_those_that_verification_finds(tmp_path):
    good = encode(photo(0))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "good.png").write_bytes(good)
    cells = [
        {"bytes": good, "path": None},
        {"bytes": b"", "path": None},
        {"bytes": good[: len(good) // 2], "path": "cut.png"},
        {"bytes": None, "path": str(tmp_path / "empty.png")},
        {"bytes": None, "path": str(tmp_path / "gone.png")},
        {"bytes": None, "path": str(tmp_path / "good.png")},
        {"bytes": None, "path": str(tmp_path)},
        {"bytes": b"this is no image", "path": None},
        {"bytes": encode(photo(1, (90, 90))), "path": None},
    ]
    table = split(["ab"] * len(cells))
    table = table.remove_columns("image").add_column("image", cells, feature=datasets.Image(decode=False))
    inspection = inspect_images({"train": table}, max_pixels=8000, progress=False)
    _, report = verify_images(table, on_error="skip", max_pixels=8000, progress=False)
    found = inspection.splits["train"].images.unreadable
    assert found == tuple((image_id, reason) for _, image_id, reason in report.broken)
    assert [image_id for image_id, _ in found] == ["i1", "i2", "i3", "i4", "i6", "i7", "i8"]
    assert "empty (0 bytes)" in found[0][1]
    assert [finding.kind for finding in inspection.errors] == ["class_without_training_image", "unreadable_image"]
    # Broken files are no copies of each other.
    assert [copies.pairs for copies in inspection.duplicates] == [(("i0", "i5"),)]


def test_copies_are_found_within_and_across_splits():
    files = {name: encode(photo(seed)) for seed, name in enumerate("pqrstuvw")}
    content = {"train": "ppqrsp", "validation": "tq", "test": "uppqv"}
    labels = {"train": ["a", "a", "b", "c", "c", "b"], "validation": ["a", "b"], "test": ["b", "a", "a", "c", "b"]}
    splits = {
        name: split(labels[name], images=[files[one] for one in order], ids=[f"{name}{n}" for n in range(len(order))])
        for name, order in content.items()
    }
    found = inspect_images(splits, progress=False).duplicates
    assert all(copies.exact for copies in found)
    assert {copies.splits: (copies.pairs, copies.different_labels) for copies in found} == {
        ("train", "train"): ((("train0", "train1"), ("train0", "train5")), 1),
        ("train", "validation"): ((("train2", "validation1"),), 0),
        ("train", "test"): ((("train0", "test1"), ("train0", "test2"), ("train2", "test3")), 1),
        ("validation", "test"): ((("validation1", "test3"),), 1),
        ("test", "test"): ((("test1", "test2"),), 0),
    }
    kinds = {
        (finding.kind, finding.severity, finding.count) for finding in inspect_images(splits, progress=False).findings
    }
    assert ("duplicate_image", "warning", 2) in kinds  # with different labels
    assert ("duplicate_image", "note", 1) in kinds
    assert ("duplicate_image_across_splits", "warning", 3) in kinds
    leak = next(one for one in inspect_images(splits, progress=False).findings if "test3 = train2" in one.examples)
    assert "3 of 'test' are copies, byte for byte, of images of 'train', 1 of them with other labels" in leak.message
    assert "test1 = train0" in leak.message


def test_pictures_compressed_or_shrunk_look_alike_and_others_do_not():
    first = [photo(seed, (96, 80)) for seed in range(12)]
    again = [
        encode(first[0], "JPEG", quality=40),
        encode(first[1].resize((48, 40), Image.Resampling.LANCZOS)),
        encode(first[2], "WEBP", quality=60),
        encode(first[3], "BMP"),  # the same pixels in another file
        *(encode(photo(seed, (96, 80))) for seed in range(50, 60)),
        encode(Image.new("RGB", (96, 80), "white")),
        encode(Image.new("RGB", (90, 80), "white")),  # nothing to recognise it by
    ]
    splits = {
        "train": split(["a"] * 12, images=[encode(image) for image in first]),
        "test": split(["a"] * len(again), images=again, ids=[f"t{n}" for n in range(len(again))]),
    }
    found = inspect_images(splits, progress=False).duplicates
    assert [(copies.splits, copies.exact, copies.pairs) for copies in found] == [
        (("train", "test"), False, tuple((f"i{n}", f"t{n}") for n in range(4)))
    ]
    assert inspect_images(splits, look_alikes=False, progress=False).duplicates == ()


def test_the_real_photographs_hold_one_picture_in_two_splits_and_its_small_copy_is_found(voc07_lt, tmp_path):
    loaded = load_images(voc07_lt, cache_dir=tmp_path)
    # These two files of VOC 2007 are the same picture: `sha256sum` gives 1 digest for both.
    rows = {name: list(part["image_id"]) for name, part in loaded.items()}
    train = loaded["train"].select([rows["train"].index("007284"), *range(100, 180)])
    validation = loaded["validation"].select([rows["validation"].index("000338"), *range(100, 180)])
    small = []
    for cell in train["image"][1:41]:
        image = Image.open(io.BytesIO(cell["bytes"])).convert("RGB")
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        small.append(encode(half, "JPEG", quality=30))
    test = split([[]] * 40, loaded["train"].features["labels"].feature.names, small, ids=[f"s{n}" for n in range(40)])
    found = inspect_images({"train": train, "validation": validation, "test": test}, progress=False).duplicates
    pairs = {(copies.splits, copies.exact): copies.pairs for copies in found}
    assert pairs == {
        (("train", "validation"), True): (("007284", "000338"),),
        (("train", "test"), False): tuple((train["image_id"][n + 1], f"s{n}") for n in range(40)),
    }


# ---- findings --------------------------------------------------------------------------------------------------------


def sound_images(count, first=0):
    return [encode(photo(first + n, (48 + n % 2, 40))) for n in range(count)]


@pytest.fixture(scope="module")
def sound():
    return {
        "train": split(SOUND, images=sound_images(20)),
        "validation": split(JUDGED, images=sound_images(4, 30), ids=list("vwxy")),
        "test": split(JUDGED, images=sound_images(4, 40), ids=list("klmn")),
    }


def test_a_sound_data_set_has_no_findings(sound):
    assert inspect_images(sound, **BOUNDS).findings == ()


def without(name):
    return lambda splits: {key: table for key, table in splits.items() if key != name}


def train_as(**changes):
    return lambda splits: {**splits, "train": split(**{"rows": SOUND, "images": sound_images(20), **changes})}


def judged_as(**changes):
    return lambda splits: {**splits, "test": split(**{"rows": JUDGED, "images": sound_images(4, 40), **changes})}


def renamed(*names):
    return lambda splits: {
        name: split(
            table["labels"], list(names), [cell["bytes"] for cell in table["image"]], ids=list(table["image_id"])
        )
        for name, table in splits.items()
    }


def replaced(*images):
    return train_as(images=[*images, *sound_images(20)[len(images) :]])


TWO = photo(60, (48, 40)), photo(61, (48, 40))
# Change of the sound data set -> kinds of the findings, with severity, count and a word of the message.
CASES = {
    "no train": (without("train"), {("no_training_split", "error", 1, "nothing to train on")}),
    "no validation": (without("validation"), {("no_validation_split", "warning", 1, "best checkpoint")}),
    "no test": (without("test"), {("no_test_split", "note", 1, "from validation")}),
    "case": (renamed("Traffic light", "traffic_light", "c"), {("similar_names", "warning", 1, "'Traffic light' /")}),
    "untrained": (
        train_as(rows=[row.replace("c", "") or "a" for row in SOUND]),
        {("class_without_training_image", "error", 1, "'train': 1 (c)")},
    ),
    "tiny": (
        train_as(rows=["ab"] * 4 + ["a"] * 8 + ["ac"] * 2 + ["b"] * 4 + ["c"] * 2),
        {("tiny_class", "note", 1, "fewer than 5 images in 'train': 1 (c 4)")},
    ),
    "everywhere": (
        train_as(rows=["ab"] * 7 + ["a"] * 7 + ["ac"] * 5 + ["abc"]),
        {("class_in_every_image", "warning", 1, "(a)")},
    ),
    "single": (
        train_as(rows=["a"] * 10 + ["b"] * 7 + ["c"] * 3),
        {("single_label", "warning", 20, "more than one label"), ("tiny_class", "note", 1, "(c 3)")},
    ),
    "identical": (
        train_as(rows=["ab"] * 8 + ["c"] * 12),
        {("identical_labels", "warning", 1, "(a = b in 8 images)"), ("empty_group", "note", 1, "no class is tail")},
    ),
    "implied": (
        train_as(rows=["ab"] * 10 + ["a"] * 4 + ["c"] * 3 + ["ac"] * 3),
        {("implied_labels", "note", 1, "(b (10) never without a)"), ("empty_group", "note", 1, "no class is medium")},
    ),
    "no positive": (judged_as(rows=["ab", "a", "b", "ab"]), {("class_without_positive", "warning", 1, "'test'")}),
    "unlabeled": (judged_as(rows=["abc", "a", "", ""]), {("unlabeled_image", "note", 2, "2 (50.0 %)")}),
    "mostly unlabeled": (judged_as(rows=["abc", "", "", ""]), {("unlabeled_image", "warning", 3, "3 (75.0 %)")}),
    "unknown": (
        judged_as(rows=["ab", "c", "", ""], unknown=[[], [], [0], [0, 1, 2]]),
        {("unknown_labels", "note", 4, "4 (33.3 %); images without any known label: 1")},
    ),
    "mostly unknown": (
        judged_as(rows=["abc", "", "", ""], unknown=[[], [0], [0], [0]]),
        {("unknown_labels", "note", 3, "3 (25.0 %)"), ("mostly_unknown_class", "warning", 1, "(a 3 (75.0 %))")},
    ),
    "ids": (judged_as(ids=list("abab")), {("repeated_id", "warning", 2, "(a, b)")}),
    "unreadable": (replaced(b"", b"x"), {("unreadable_image", "error", 2, "'train' that cannot be read: 2 (i0, i1)")}),
    "large": (
        replaced(encode(photo(90, (4001, 4000)), "JPEG")),
        {("large_image", "note", 1, "16 million pixels")},
    ),
    "small": (replaced(encode(photo(90, (31, 60)))), {("small_image", "note", 1, "1 (5.0 %)")}),
    "elongated": (replaced(encode(photo(90, (40, 121)))), {("elongated_image", "note", 1, "squeezed to a square")}),
    "animated": (
        replaced(encode(TWO[0], "WEBP", save_all=True, append_images=[TWO[1]])),
        {("animated_image", "note", 1, "the first is used")},
    ),
    "modes": (replaced(encode(photo(70).convert("L"))), {("mixed_modes", "note", 2, "RGB 19, L 1")}),
    "one size": (
        judged_as(images=[encode(photo(80 + n, (50, 50))) for n in range(4)]),
        {("one_size", "note", 4, "all images of 'test' are 50 x 50 pixels")},
    ),
    "copy": (replaced(*[sound_images(1)[0]] * 2), {("duplicate_image", "note", 1, "(i1 = i0)")}),
    "copy with other labels": (
        train_as(images=[*sound_images(19), sound_images(1)[0]]),
        {("duplicate_image", "warning", 1, "1 of them with other labels (i19 = i0)")},
    ),
    "leak": (
        judged_as(images=[sound_images(20)[3], *sound_images(3, 40)]),
        {("duplicate_image_across_splits", "warning", 1, "are copies, byte for byte, of images of 'train' (i0 = i3)")},
    ),
    "look-alike": (
        replaced(encode(photo(0)), encode(photo(0), "JPEG", quality=80)),
        {("look_alike_image", "note", 1, "look like images of 'train' (i1 ~ i0)")},
    ),
    "look-alike leak": (
        judged_as(images=[encode(photo(0), "JPEG", quality=80), *sound_images(3, 41)]),
        {("look_alike_image_across_splits", "warning", 1, "(i0 ~ i0)")},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_would_go_wrong_is_found_and_nothing_else(case, sound):
    change, expected = CASES[case]
    found = inspect_images(change(sound), **BOUNDS).findings
    assert {finding[:3] for finding in map(vars_of, found)} == {entry[:3] for entry in expected}
    for kind, _, _, words in expected:
        message = next(finding.message for finding in found if finding.kind == kind)
        assert words in message
    for finding in found:
        assert "\n" not in finding.message + finding.mend
        assert finding.mend
    severities = [finding.severity for finding in found]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)


def vars_of(finding):
    return finding.kind, finding.severity, finding.count


def test_an_inspection_is_json_as_it_is(sound):
    splits = {**sound, "test": split(JUDGED, images=[b"", *sound_images(3)])}
    inspection = inspect_images(splits, **BOUNDS)
    read = json.loads(json.dumps(inspection.to_dict()))
    assert read["splits"]["train"]["class_counts"] == [12, 8, 6]
    assert read["splits"]["test"]["images"]["unreadable"][0][0] == "i0"
    assert read["duplicates"][0]["pairs"] == [["i0", "i1"], ["i1", "i2"], ["i2", "i3"]]
    assert [finding["kind"] for finding in read["findings"]] == [finding.kind for finding in inspection.findings]


# ---- the picture -----------------------------------------------------------------------------------------------------

# Blue, orange and reddish purple of Okabe and Ito; the ends of viridis.
HEAD, MEDIUM, TAIL = (0, 114, 178), (0, 158, 115), (213, 94, 0)
ALL, NONE = (253, 231, 37), (68, 1, 84)


def pixels_of(path, color):
    with Image.open(path) as image:
        distance = np.abs(np.asarray(image.convert("RGB")).astype(int) - color).max(axis=2)
    return int((distance <= 1).sum())


def test_the_picture_has_the_colours_of_the_groups_and_of_the_shares(tmp_path):
    rows = ["ab"] * 4 + ["a"] * 8 + ["c"] * 8
    inspection = inspect_images({"train": split(rows)}, read_images=False, **BOUNDS)
    draw_inspection(inspection, tmp_path / "three.png")
    areas = {name: pixels_of(tmp_path / "three.png", color) for name, color in
             {"head": HEAD, "medium": MEDIUM, "tail": TAIL, "all": ALL, "none": NONE}.items()}  # fmt: skip
    assert min(areas.values()) > 5000
    # Of six cells off the diagonal one is full (every b has a), one a third, four empty.
    assert areas["none"] / areas["all"] == pytest.approx(4, rel=0.1)
    no_tail = inspect_images({"train": split(rows)}, head_min=10, tail_max=1, read_images=False, progress=False)
    draw_inspection(no_tail, tmp_path / "two.png")
    assert pixels_of(tmp_path / "two.png", TAIL) == 0


@pytest.mark.parametrize("classes", [1, 100, 700])
def test_any_number_of_classes_is_drawn_and_a_rare_pair_stays_visible(classes, tmp_path):
    rows = [[number] for number in range(classes) for _ in range(1 + (number == 0))]
    if classes > 1:
        rows += [[classes - 2, classes - 1]] * 50  # the only pair: nearly always together
    table = split(rows, [f"cost in ${number}$ [x]" for number in range(classes)])
    inspection = inspect_images({"train": table, "test": table}, read_images=False, progress=False)
    draw_inspection(inspection, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as image:
        assert max(image.size) < 5000
        red, green, blue = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    # The yellow end of viridis, which left of its scale only two cells of the map have, of a pixel or more each.
    bright = (red > 150) & (green > 200) & (blue < 70)
    assert (bright[:, : int(bright.shape[1] * 0.9)].sum() >= 2) == (classes > 1)


def test_a_picture_of_another_kind_is_refused(sound, tmp_path):
    inspection = inspect_images(sound, read_images=False, **BOUNDS)
    with pytest.raises(ValueError, match=r"cannot draw to '.*\.gif'; choose a \.png or \.svg file"):
        draw_inspection(inspection, tmp_path / "picture.gif")
    draw_inspection(inspection, tmp_path / "picture.svg")
    assert "<svg" in (tmp_path / "picture.svg").read_text()[:2000]
    assert [path.name for path in tmp_path.iterdir()] == ["picture.svg"]
