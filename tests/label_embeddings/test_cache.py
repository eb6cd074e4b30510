# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import shutil
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import modeling_cssfe.label_embeddings.text_encoders as text_encoders
from modeling_cssfe.label_embeddings import encode_label_names, resolve_label_embeddings
from modeling_cssfe.label_embeddings.cache import folder_digest


@pytest.fixture
def loads(monkeypatch):
    """Counts how often an encoder is loaded."""
    counted = []
    load = text_encoders.load_hub_encoder
    monkeypatch.setattr(text_encoders, "load_hub_encoder", lambda files: counted.append(files) or load(files))
    return counted


def files(folder):
    return sorted(path for path in folder.iterdir()) if folder.is_dir() else []


def test_a_second_call_loads_no_encoder_and_gives_the_same(tiny_clip, loads, own_cache):
    first = resolve_label_embeddings(str(tiny_clip), ["cat", "dog"])
    second = resolve_label_embeddings(str(tiny_clip), ["cat", "dog"])
    assert len(loads) == 1
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]
    (path,) = files(own_cache)
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["label_names"]) == ["cat", "dog"]
        provenance = json.loads(file.metadata()["provenance"])
    assert (provenance["source"], provenance["template"]) == (tiny_clip.name, "a photo of a {}.")


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["dog", "cat"], {}),
        (["cat"], {}),
        (["cat", "dog"], {"template": "the {}"}),
        (["cat", "dog"], {"template": ["a photo of a {}.", "the {}"]}),
        (["cat", "dog"], {"normalize": False}),
    ],
)
def test_another_question_is_not_answered_by_the_same_file(names, options, tiny_clip, loads, own_cache):
    encode_label_names(tiny_clip, ["cat", "dog"])
    cached, _ = encode_label_names(tiny_clip, names, **options)
    assert len(loads) == len(files(own_cache)) == 2
    assert torch.equal(cached, encode_label_names(tiny_clip, names, use_cache=False, **options)[0])


def test_changed_weights_are_another_encoder_although_the_folder_is_the_same(tiny_clip, loads, tmp_path):
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    before, _ = encode_label_names(folder, ["cat"])
    weights = load_file(folder / "model.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    after, _ = encode_label_names(folder, ["cat"])
    assert len(loads) == 2
    assert not torch.allclose(before, after)


def test_the_content_of_a_folder_counts_and_its_place_does_not(tiny_clip, tmp_path):
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    same = folder_digest(tiny_clip)
    assert folder_digest(folder) == same
    (folder / "README.md").write_text("words")
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    assert folder_digest(folder) == same
    (folder / "special.json").write_text("{}")
    assert folder_digest(folder) != same


@pytest.mark.parametrize("damage", ["cut", "flipped", "other names"])
def test_a_damaged_file_is_named_and_made_again(damage, tiny_clip, loads, own_cache):
    first, _ = encode_label_names(tiny_clip, ["cat", "dog"])
    (path,) = files(own_cache)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-3] ^= 1
        path.write_bytes(content)
    else:
        path.write_bytes(bytes(content).replace(b"cat", b"cow"))
    with pytest.warns(UserWarning, match=f"the cache file '.*{path.name}' is damaged .*; it is made again"):
        again, _ = encode_label_names(tiny_clip, ["cat", "dog"])
    assert len(loads) == 2
    assert torch.equal(first, again)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(first, encode_label_names(tiny_clip, ["cat", "dog"])[0])
    assert len(loads) == 2


def test_the_cache_can_lie_elsewhere_or_nowhere(tiny_clip, loads, own_cache, tmp_path):
    encode_label_names(tiny_clip, ["cat"], use_cache=False)
    assert not own_cache.exists()
    encode_label_names(tiny_clip, ["cat"], cache_dir=tmp_path / "here")
    encode_label_names(tiny_clip, ["cat"], cache_dir=tmp_path / "here")
    assert len(loads) == 2
    assert len(files(tmp_path / "here")) == 1
    assert not own_cache.exists()


def test_a_cache_that_cannot_be_written_is_named_and_no_error(tiny_clip, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="label embeddings cannot be cached in '.*file"):
        embeddings, _ = encode_label_names(tiny_clip, ["cat"], cache_dir=tmp_path / "file" / "in")
    assert torch.equal(embeddings, encode_label_names(tiny_clip, ["cat"], use_cache=False)[0])


def test_what_costs_nothing_is_not_cached(own_cache, tmp_path):
    resolve_label_embeddings("random", ["cat"])
    resolve_label_embeddings(torch.ones(1, 2), ["cat"])
    (tmp_path / "v.txt").write_text("cat 1 2\n")
    resolve_label_embeddings(tmp_path / "v.txt", ["cat"])
    assert not own_cache.exists()
