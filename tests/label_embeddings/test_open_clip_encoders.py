# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import importlib.util
import json
import shutil
import sys
from math import erf

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_cssfe.label_embeddings import encode_label_names, resolve_label_embeddings


needs_open_clip = pytest.mark.skipif(not importlib.util.find_spec("open_clip"), reason="open_clip is not installed")

CONFIG = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 64, "patch_size": 4},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 2},
}
# The library's tokenizer: 49406 starts, 49407 ends, 0 pads.
TEXTS = {"cat": "a photo of a cat.", "traffic_light": "a photo of a traffic light."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What open_clip itself saves, of a model of random weights."""
    import open_clip

    path = tmp_path_factory.mktemp("tiny-open-clip")
    torch.manual_seed(0)
    model = open_clip.CLIP(**CONFIG)
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path / "model.safetensors")
    return path


def reference(path, tokens: list[int], quick: bool = False) -> np.ndarray:
    """The text tower in float64 numpy, from the weights alone: Radford et al., 2021, section 2.4."""
    wanted = ("transformer.", "token_", "positional", "ln_final", "text_projection")
    weights = {
        name: tensor.double().numpy()
        for name, tensor in load_file(path / "model.safetensors").items()
        if name.startswith(wanted)
    }

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x):
        return x / (1 + np.exp(-1.702 * x)) if quick else x * (1 + np.vectorize(erf)(x / np.sqrt(2))) / 2

    x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"][: len(tokens)]
    causal = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for layer in range(2):
        at = f"transformer.resblocks.{layer}"
        joined = norm(x, f"{at}.ln_1") @ weights[f"{at}.attn.in_proj_weight"].T + weights[f"{at}.attn.in_proj_bias"]
        query, key, value = np.split(joined, 3, axis=1)
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            scores = np.exp(query[:, head] @ key[:, head].T / 2 + causal)
            heads.append(scores / scores.sum(1, keepdims=True) @ value[:, head])
        out = f"{at}.attn.out_proj"
        x = x + np.concatenate(heads, 1) @ weights[f"{out}.weight"].T + weights[f"{out}.bias"]
        y = norm(x, f"{at}.ln_2") @ weights[f"{at}.mlp.c_fc.weight"].T + weights[f"{at}.mlp.c_fc.bias"]
        x = x + gelu(y) @ weights[f"{at}.mlp.c_proj.weight"].T + weights[f"{at}.mlp.c_proj.bias"]
    projected = norm(x, "ln_final")[-1] @ weights["text_projection"]
    return projected / np.linalg.norm(projected)


def token_ids(text: str) -> list[int]:
    import open_clip

    return [int(token) for token in open_clip.tokenize([text], context_length=12)[0] if token]


@needs_open_clip
@pytest.mark.parametrize("prefix", ["open_clip:", "open_clip:local-dir:"])
def test_a_folder_gives_the_projected_text_of_the_end_token(prefix, folder):
    embeddings, provenance = resolve_label_embeddings(f"{prefix}{folder}", list(TEXTS))
    np.testing.assert_allclose(embeddings, [reference(folder, token_ids(text)) for text in TEXTS.values()], atol=1e-5)
    assert (provenance["source"], provenance["kind"]) == (f"open_clip:{folder.name}", "open_clip")
    assert (provenance["dim"], provenance["template"]) == (6, "a photo of a {}.")


@needs_open_clip
def test_it_is_cached_by_content_too(folder, own_cache, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    first, _ = encode_label_names(f"open_clip:{copy}", ["cat"])
    assert len(list(own_cache.iterdir())) == 1
    weights = load_file(copy / "model.safetensors")
    save_file({**weights, "text_projection": weights["text_projection"].flip(0)}, copy / "model.safetensors")
    assert not torch.allclose(first, encode_label_names(f"open_clip:{copy}", ["cat"])[0])


@pytest.fixture
def hub(tmp_path, monkeypatch, folder):
    """The tiny model as a repository of an offline Hub cache."""
    repository = tmp_path / "hub" / "models--nobody--tiny-open-clip"
    shutil.copytree(folder, repository / "snapshots" / ("c" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@needs_open_clip
def test_a_repository_of_the_hub_is_known_by_its_commit(hub, folder):
    embeddings, provenance = encode_label_names("open_clip:hf-hub:nobody/tiny-open-clip", ["cat"])
    np.testing.assert_allclose(embeddings[0], reference(folder, token_ids(TEXTS["cat"])), atol=1e-5)
    assert provenance["revision"] == "c" * 40


@pytest.fixture
def tag(hub, monkeypatch):
    """Adds an architecture and a tag of it to open_clip's lists for the time of a test."""
    import open_clip.factory
    import open_clip.pretrained

    def add(quick_model: bool, quick_tag: bool):
        config = {**CONFIG, "quick_gelu": quick_model}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-4", config)
        settings = {"hf_hub": "nobody/tiny-open-clip/", "quick_gelu": quick_tag}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-4", {"nothing": settings, "site": {"url": "x"}})

    return add


@needs_open_clip
@pytest.mark.parametrize(("quick_model", "quick_tag"), [(False, False), (False, True), (True, True)])
def test_a_tag_gets_the_activation_that_it_was_trained_with(quick_model, quick_tag, tag, folder):
    tag(quick_model, quick_tag)
    embeddings, provenance = encode_label_names("open_clip:Tiny-4/nothing", ["cat"])
    # By name, the library's tokenizer pads to the 12 of the configuration as well.
    np.testing.assert_allclose(embeddings[0], reference(folder, token_ids(TEXTS["cat"]), quick_tag), atol=1e-5)
    assert provenance["source"] == "open_clip:Tiny-4/nothing"
    assert (provenance["revision"], provenance["quick_gelu"]) == ("c" * 40, quick_tag)


@needs_open_clip
@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("open_clip:ViT-B-33/laion2b_s34b_b79k", ValueError, "has no model 'ViT-B-33'; did you mean 'ViT-B-32'"),
        (
            "open_clip:Tiny-4/nothin",
            ValueError,
            "no weights 'nothin' of Tiny-4, only nothing, site; did you mean 'noth",
        ),
        ("open_clip:Tiny-4", ValueError, "must name a model and its weights, such as 'open_clip:ViT-B-32/laion2b_s34b"),
        ("open_clip:Tiny-4/site", ValueError, "not published as safetensors; pass another tag"),
        ("open_clip:/no/such/folder", FileNotFoundError, "there is no folder '/no/such/folder'"),
        (
            "open_clip:hf-hub:nobody/none",
            ValueError,
            "the text encoder 'open_clip:hf-hub:nobody/none' cannot be loaded",
        ),
    ],
)
def test_wrong_names_are_one_line_errors(source, error, message, tag):
    tag(False, False)
    with pytest.raises(error, match=message) as caught:
        encode_label_names(source, ["cat"])
    assert "\n" not in str(caught.value)


@needs_open_clip
def test_weights_without_the_quick_gelu_of_the_model_are_refused(tag):
    tag(True, False)
    with pytest.raises(ValueError, match="trained without the quick GELU of that model; take the model's name without"):
        encode_label_names("open_clip:Tiny-4/nothing", ["cat"])


@needs_open_clip
def test_pickled_weights_are_not_read(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    torch.save(load_file(copy / "model.safetensors"), copy / "open_clip_pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no open_clip_model.safetensors or .* within reach, and other weight"):
        encode_label_names(f"open_clip:{copy}", ["cat"])
    (copy / "open_clip_config.json").unlink()
    with pytest.raises(ValueError, match=r"holds no open_clip_config.json; pass a folder that open_clip saved"):
        encode_label_names(f"open_clip:{copy}", ["cat"])


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ValueError, match="needs open_clip, which is not installed; run 'pip install open_clip_torch'"):
        encode_label_names("open_clip:ViT-B-32/laion2b_s34b_b79k", ["cat"])
