# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import os

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from modeling_cssfe.label_embeddings import load_label_embeddings, resolve_label_embeddings, save_label_embeddings


NAMES = ["dog", "cat", "traffic_light"]


def values(rows: int = 3, dim: int = 5) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(rows, dim))).float()


# ---- tensors and random numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "convert", [lambda t: t, lambda t: t.double(), lambda t: t.double().numpy(), lambda t: t.T.contiguous().T]
)
def test_tensors_and_arrays_are_taken_as_they_are(convert):
    embeddings, provenance = resolve_label_embeddings(convert(values()), NAMES)
    assert (embeddings.dtype, embeddings.is_contiguous()) == (torch.float32, True)
    assert torch.equal(embeddings, values())
    assert provenance == {"source": "tensor", "kind": "tensor", "order": "as given", "dim": 5}


def test_the_result_is_the_callers_own():
    given = values().requires_grad_()
    embeddings, _ = resolve_label_embeddings(given, NAMES)
    embeddings.zero_()
    assert torch.equal(given, values())
    assert not embeddings.requires_grad


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (values(2), r"shape \(2, 5\); with 3 label names it must be \(3, dim\)"),
        (values(3, 0), r"shape \(3, 0\)"),
        (torch.zeros(3), r"shape \(3,\)"),
        (torch.tensor([[0.0], [float("nan")], [1.0]]), "NaN or infinite values, the first in row 1"),
        (torch.full((3, 2), float("inf")), "NaN or infinite values, the first in row 0"),
        (np.array([["a"], ["b"], ["c"]]), "must be numbers"),
        (torch.zeros(3, 2, dtype=torch.complex64), "is complex"),
    ],
)
def test_bad_tensors_are_refused(source, message):
    with pytest.raises(ValueError, match=message):
        resolve_label_embeddings(source, NAMES)


def test_a_source_of_another_type_is_refused():
    with pytest.raises(TypeError, match="must be a tensor, an array or text, got int"):
        resolve_label_embeddings(3, NAMES)


def test_random_embeddings_are_seeded_normal_directions():
    embeddings, provenance = resolve_label_embeddings("random", NAMES, seed=4)
    # The numbers of numpy's own generator, made unit vectors here.
    expected = np.random.default_rng(4).standard_normal((3, 512))
    expected /= np.sqrt((expected**2).sum(1, keepdims=True))
    np.testing.assert_allclose(embeddings, expected, atol=1e-7)
    assert provenance == {"source": "random", "kind": "random", "seed": 4, "dim": 512}
    assert not torch.equal(embeddings, resolve_label_embeddings("random", NAMES, seed=5)[0])
    assert resolve_label_embeddings("random", NAMES, dim=7)[0].shape == (3, 7)


@pytest.mark.parametrize(
    ("options", "message"), [({"seed": -1}, "seed must be >= 0"), ({"dim": 0}, "dim must be >= 1")]
)
def test_bad_options_of_random_embeddings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        resolve_label_embeddings("random", NAMES, **options)


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        ([], ValueError, "label_names is empty"),
        (["a", "a"], ValueError, "two labels are named 'a'"),
        ("dog", TypeError, "must be a list of names, got the text 'dog'"),
    ],
)
def test_bad_label_names_are_refused(names, error, message):
    with pytest.raises(error, match=message):
        resolve_label_embeddings("random", names)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_saved_file_comes_back_bit_by_bit(tmp_path):
    path = tmp_path / "e.safetensors"
    save_label_embeddings(path, values(), NAMES, {"source": "made up", "seed": 3})
    embeddings, provenance = resolve_label_embeddings(path, NAMES)
    assert torch.equal(embeddings, values())
    assert provenance == {
        "source": "e.safetensors",
        "kind": "file",
        "order": "by name",
        "origin": {"source": "made up", "seed": 3},
        "dim": 5,
    }
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["label_names"]) == NAMES
    assert [entry.name for entry in tmp_path.iterdir()] == ["e.safetensors"]


def test_rows_are_found_by_name(tmp_path):
    path = tmp_path / "e.safetensors"
    save_label_embeddings(path, values(), NAMES)
    embeddings, _ = load_label_embeddings(path, ["traffic_light", "dog", "cat"])
    assert torch.equal(embeddings, values()[[2, 0, 1]])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["dog", "cat", "traffic light"],
            "lacks 'traffic light' .is 'traffic_light' in the file meant for 'traffic light'",
        ),
        (["dog", "cat"], "is for other labels: it has 'traffic_light' besides; embed the labels of this data set"),
        ([*NAMES, "x1", "x2", "x3", "x4", "x5", "x6"], "lacks 'x1', 'x2', 'x3', 'x4', 'x5' and 1 more;"),
    ],
)
def test_other_names_are_an_error_that_shows_the_difference(names, message, tmp_path):
    path = tmp_path / "e.safetensors"
    save_label_embeddings(path, values(), NAMES)
    with pytest.raises(ValueError, match=message) as caught:
        resolve_label_embeddings(path, names)
    assert "\n" not in str(caught.value)


def test_a_file_without_names_is_taken_in_order_and_says_so(tmp_path):
    path = tmp_path / "e.safetensors"
    save_file({"label_embeddings": values().half()}, path)
    embeddings, provenance = resolve_label_embeddings(str(path), NAMES)
    assert torch.equal(embeddings, values().half().float())
    assert provenance["order"].startswith("assumed")
    with pytest.raises(ValueError, match=r"shape \(3, 5\); with 2 label names"):
        resolve_label_embeddings(str(path), NAMES[:2])


def test_bad_files_are_one_line_errors(tmp_path):
    path = tmp_path / "e.safetensors"
    with pytest.raises(FileNotFoundError, match=r"no label embedding file '.*e\.safetensors'"):
        resolve_label_embeddings(path, NAMES)
    path.write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="is no whole safetensors file") as caught:
        resolve_label_embeddings(path, NAMES)
    assert "\n" not in str(caught.value)
    save_file({"weight": values()}, path)
    with pytest.raises(ValueError, match="has no tensor 'label_embeddings', only weight"):
        resolve_label_embeddings(path, NAMES)
    for metadata, message in (
        ({"label_names": "dog, cat"}, "metadata 'label_names' are no JSON list"),
        ({"label_names": '["dog", "dog", "cat"]'}, "names a label twice"),
        ({"label_names": '["dog", "cat"]'}, r"shape \(3, 5\); with 2 label names"),
        ({"provenance": "[]"}, "metadata 'provenance' are no JSON dict"),
    ):
        save_file({"label_embeddings": values()}, path, metadata=metadata)
        with pytest.raises(ValueError, match=message):
            resolve_label_embeddings(path, NAMES)


def test_a_file_whose_values_changed_is_damaged(tmp_path):
    path = tmp_path / "e.safetensors"
    save_label_embeddings(path, values(), NAMES)
    content = bytearray(path.read_bytes())
    content[-1] ^= 64  # the highest bits of the last value
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged: its values differ from their checksum"):
        resolve_label_embeddings(path, NAMES)


def test_a_saved_file_is_as_open_to_others_as_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    save_label_embeddings(tmp_path / "e.safetensors", values(), NAMES)
    assert (tmp_path / "e.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("option", ["template", "revision"])
@pytest.mark.parametrize("kind", ["random", "tensor", "file"])
def test_an_option_that_a_source_cannot_use_is_refused(kind, option, tmp_path):
    save_label_embeddings(tmp_path / "e.safetensors", values(), NAMES)
    source = {"random": "random", "tensor": values(), "file": tmp_path / "e.safetensors"}[kind]
    with pytest.raises(ValueError, match=f"{option} 'a {{}}' does not go with '{'e.safe' if kind == 'file' else kind}"):
        resolve_label_embeddings(source, NAMES, **{option: "a {}"})


def test_saving_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "e.safetensors"
    save_label_embeddings(path, values(), NAMES)
    before = path.read_bytes()

    def fail(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        save_label_embeddings(path, 2 * values(), NAMES)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["e.safetensors"]


@pytest.mark.parametrize(
    ("name", "tensor", "error", "message"),
    [
        ("e.bin", values(), ValueError, "does not end in .safetensors"),
        ("no/e.safetensors", values(), FileNotFoundError, "the folder '.*no' does not exist"),
        ("e.safetensors", values(2), ValueError, "the tensor to save has shape"),
    ],
)
def test_what_cannot_be_saved_is_refused(name, tensor, error, message, tmp_path):
    with pytest.raises(error, match=message):
        save_label_embeddings(tmp_path / name, tensor, NAMES)
