import json

import numpy as np
import pytest

from modeling_cssfe.cli import main
from modeling_cssfe.data import load_images
from modeling_cssfe.evaluation.prediction_files import Predictions
from modeling_cssfe.evaluation.score_files import read_scores
from modeling_cssfe.evaluation.scoring import score_model


SUFFIXES = (".parquet", ".csv", ".jsonl")


@pytest.fixture(scope="module")
def photographs(tiny_data, tmp_path_factory):
    """The test images as files in two folders, named after their ids."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    for number, row in enumerate(load_images(tiny_data)["test"]):
        image = row["image"]
        place = folder / ("more" if number % 3 == 0 else "") / f"{row['image_id']}.png"
        place.write_bytes(image["bytes"])
    return folder


@pytest.fixture(scope="module")
def judged_run(tiny_run, tiny_data, tmp_path_factory):
    """The run with thresholds of its own."""
    folder = tmp_path_factory.mktemp("thresholds") / "run"
    assert main(["thresholds", str(tiny_run), "--data", str(tiny_data), "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def predictions(judged_run, photographs, tmp_path_factory):
    """The files that `cssfe predict` writes, by their ending."""
    folder = tmp_path_factory.mktemp("predictions")
    files = {suffix: folder / f"scores{suffix}" for suffix in SUFFIXES}
    for file in files.values():
        assert main(["predict", str(judged_run), str(photographs), "--output", str(file)]) == 0
    return files


def evaluate(subject, tiny_data, tmp_path, *options):
    file = tmp_path / "figures.json"
    command = ["evaluate", str(subject), "--data", str(tiny_data), "--bootstrap", "0", "--output", str(file)]
    assert main([*command, *options]) == 0
    return json.loads(file.read_text())[0]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_predictions_are_judged_as_the_model_is(suffix, predictions, judged_run, tiny_data, tmp_path):
    bounds = () if suffix == ".parquet" else ("--head_min", "12", "--tail_max", "6")
    wanted = evaluate(judged_run, tiny_data, tmp_path)
    found = evaluate(predictions[suffix], tiny_data, tmp_path, *bounds)
    for name in ("map_total", "map_head", "map_medium", "map_tail", "auroc_macro", "num_images"):
        assert found[name] == wanted[name], name
    assert found["per_class"] == wanted["per_class"]
    assert found["ece"] == pytest.approx(wanted["ece"], abs=1e-6)
    if suffix == ".parquet":  # which has the thresholds
        assert found["f1_macro"] == wanted["f1_macro"]
        assert found["groups"]["tail"]["classes"] == wanted["groups"]["tail"]["classes"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_scores_are_the_models_image_by_image(suffix, predictions, judged_run, tiny_data):
    wanted = score_model(judged_run, tiny_data, "test")
    labels = load_images(tiny_data)["test"]
    found = read_scores(predictions[suffix], labels, class_counts=dict(zip(wanted.label_names, [9] * 3, strict=True)))
    assert found.image_ids == wanted.image_ids
    assert sorted(found.label_names) == sorted(wanted.label_names)
    columns = [found.label_names.index(name) for name in wanted.label_names]
    np.testing.assert_allclose(found.scores[:, columns], wanted.scores, atol=1e-6)
    np.testing.assert_array_equal(found.labels[:, columns], wanted.labels)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_that_could_not_be_read_is_counted_and_named(
    suffix, judged_run, photographs, tiny_data, tmp_path, capsys
):
    (tmp_path / "test-0.png").write_bytes(b"no image")
    others = sorted(str(file) for file in photographs.rglob("*.png") if file.name != "test-0.png")
    file = tmp_path / f"scores{suffix}"
    assert main(["predict", str(judged_run), str(tmp_path / "test-0.png"), *others, "--output", str(file)]) == 0
    assert main(["evaluate", str(file), "--data", str(tiny_data)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "1 of the 12 images of the data set could not be read" in said
    assert "test-0.png" in said
    # Of data that does not have it, it is no matter.
    split = load_images(tiny_data)["test"].select(range(1, 12))
    assert len(read_scores(file, split, class_counts=[5, 5, 5]).image_ids) == 11


def test_shortened_lines_are_refused(judged_run, photographs, tiny_data, tmp_path, capsys):
    file = tmp_path / "short.jsonl"
    command = ["predict", str(judged_run), str(photographs), "--output", str(file), "--top_k", "1"]
    assert main(command) == 0
    assert main(["evaluate", str(file), "--data", str(tiny_data)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "top_k" in said or "classes" in said


@pytest.mark.parametrize(
    ("split", "message"), [("train", "has no scores of 18 of the 18 images"), ("part", "has 2 images that .* lacks")]
)
def test_images_without_a_partner_are_named(split, message, predictions, tiny_data):
    splits = load_images(tiny_data)
    labels = splits["test"].select(range(10)) if split == "part" else splits[split]
    with pytest.raises(ValueError, match=message) as caught:
        read_scores(predictions[".parquet"], labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "ids", "rows"),
    [
        (["p/b.jpg", "p/a.jpg"], ["a", "b"], [1, 0]),
        (["p/b.JPG", "p/a.jpg"], ["a.jpg", "b.png"], [1, 0]),  # the ending decides only where it has to
        (["a.jpg", "a.png"], ["a.png", "a.jpg"], [1, 0]),
        (["x/one/a.jpg", "x/two/a.jpg"], ["two/a", "one/a"], [1, 0]),
        (["x/one/a.jpg", "x/two/a.jpg"], ["two/a.jpg", "one/a.jpg"], [1, 0]),
        (["p/v1.5.png", "p/v1.6.png"], ["v1.6", "v1.5"], [1, 0]),  # no ending of an image
    ],
)
def test_files_are_matched_with_ids_one_to_one(files, ids, rows):
    predictions = Predictions("f", files, [None] * len(files), {"cat": np.zeros(len(files))})
    assert predictions.rows_of(ids, "d") == rows


@pytest.mark.parametrize(
    ("files", "ids", "message"),
    [
        (["x/a.jpg", "y/a.jpg"], ["a"], "'a' may be any of 'x/a.jpg', 'y/a.jpg' in f"),
        (["x/a.jpg"], ["one/a", "two/a"], "'x/a.jpg' in f may be the image 'one/a' or 'two/a' of d"),
        (["A.jpg"], ["a"], "no scores of 1 of the 1 images of d: 'a'"),
        (["a.jpg", "b.jpg"], ["a"], "1 images that d lacks: 'b.jpg'"),
    ],
)
def test_what_cannot_be_matched_is_refused_by_name(files, ids, message):
    predictions = Predictions("f", files, [None] * len(files), {"cat": np.zeros(len(files))})
    with pytest.raises(ValueError, match=message):
        predictions.rows_of(ids, "d")


def test_a_file_that_is_there_twice_is_refused(tmp_path, photographs, judged_run, tiny_data, capsys):
    file, image = tmp_path / "scores.csv", str(photographs / "test-1.png")
    assert main(["predict", str(judged_run), image, image, "--output", str(file)]) == 0
    assert main(["evaluate", str(file), "--data", str(tiny_data)]) == 2
    assert f"the image {image!r} occurs twice" in capsys.readouterr().err


@pytest.mark.parametrize("line", ["", "[]", "{", '{"image": "a"}', '{"image": "a", "scores": [1]}'])
def test_other_lines_of_json_are_refused(line, tmp_path, tiny_data):
    file = tmp_path / "scores.jsonl"
    file.write_text(f'{{"image": "b", "scores": {{"red": 0.5}}}}\n{line}\n')
    with pytest.raises(ValueError, match=r"line 2 of .* is none that `cssfe predict` writes") as caught:
        read_scores(file, load_images(tiny_data)["test"])
    assert "\n" not in str(caught.value)
