# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modeling_cssfe.label_embeddings import encode_label_names, resolve_label_embeddings


def reference(folder, tokens: list[int]) -> np.ndarray:
    """CLIP's text tower in float64 numpy, from the weights alone: Radford et al., 2021, section 2.4."""
    weights = {name: tensor.double().numpy() for name, tensor in load_file(folder / "model.safetensors").items()}

    def get(name: str) -> np.ndarray:
        return weights[next(key for key in weights if key.endswith(name))]

    def linear(x, name):
        return x @ get(f"{name}.weight").T + get(f"{name}.bias")

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * get(f"{name}.weight") + get(f"{name}.bias")

    def softmax(x):
        x = np.exp(x - x.max(-1, keepdims=True))
        return x / x.sum(-1, keepdims=True)

    x = get("token_embedding.weight")[tokens] + get("position_embedding.weight")[: len(tokens)]
    causal = np.triu(np.full((len(tokens), len(tokens)), -np.inf), 1)
    for layer in range(2):
        at = f"layers.{layer}"
        y = norm(x, f"{at}.layer_norm1")
        heads = []
        query, key, value = (linear(y, f"{at}.self_attn.{part}_proj") for part in "qkv")
        for head in (slice(0, 4), slice(4, 8)):
            attention = softmax(query[:, head] @ key[:, head].T / np.sqrt(4) + causal)
            heads.append(attention @ value[:, head])
        x = x + linear(np.concatenate(heads, 1), f"{at}.self_attn.out_proj")
        y = linear(norm(x, f"{at}.layer_norm2"), f"{at}.mlp.fc1")
        x = x + linear(y / (1 + np.exp(-1.702 * y)), f"{at}.mlp.fc2")  # CLIP's quick GELU
    projected = norm(x, "final_layer_norm")[-1] @ get("text_projection.weight").T
    return projected / np.linalg.norm(projected)


def test_embeddings_are_the_projected_text_of_the_end_token(tiny_clip):
    embeddings, provenance = encode_label_names(tiny_clip, ["cat", "traffic_light"])
    assert embeddings.dtype == torch.float32
    # <start> a photo of a cat . <end>, and the same with the underscore as a space.
    expected = [reference(tiny_clip, [1, 3, 4, 5, 3, 8, 7, 12]), reference(tiny_clip, [1, 3, 4, 5, 3, 9, 10, 7, 12])]
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert provenance == {
        "source": tiny_clip.name,
        "kind": "clip",
        "revision": None,
        "template": "a photo of a {}.",
    }


def test_the_template_surrounds_the_name(tiny_clip):
    embeddings, _ = encode_label_names(tiny_clip, ["dog"], template="the {}")
    np.testing.assert_allclose(embeddings[0], reference(tiny_clip, [1, 6, 11, 12]), atol=1e-5)


def test_neither_batch_size_nor_neighbours_change_an_embedding(tiny_clip):
    names = ["cat", "traffic light", "dog"]
    together, _ = encode_label_names(tiny_clip, names)
    one_by_one, _ = encode_label_names(tiny_clip, names, batch_size=1)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)


def test_resolving_a_folder_gives_the_same_and_checks_the_dimension(tiny_clip):
    embeddings, provenance = resolve_label_embeddings(str(tiny_clip), ["cat", "dog"])
    assert torch.equal(embeddings, encode_label_names(tiny_clip, ["cat", "dog"])[0])
    assert provenance["dim"] == 6
    with pytest.raises(ValueError, match="has 6 dimensions, not the 512 asked for"):
        resolve_label_embeddings(str(tiny_clip), ["cat", "dog"], dim=512)


def test_a_whole_clip_model_gives_its_text_features(tiny_clip, tmp_path):
    from transformers import AutoConfig, AutoTokenizer, CLIPConfig, CLIPModel, CLIPVisionConfig

    vision = CLIPVisionConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = AutoConfig.from_pretrained(tiny_clip)
    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=6)).eval()
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_clip).save_pretrained(tmp_path)
    tokens = torch.tensor([[1, 3, 4, 5, 3, 8, 7, 12]])
    with torch.no_grad():
        pooled = model.text_model(input_ids=tokens).pooler_output
        expected = torch.nn.functional.normalize(model.text_projection(pooled), dim=-1)
    torch.testing.assert_close(encode_label_names(tmp_path, ["cat"])[0], expected)


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {0}", "a {} {name}"])
def test_a_template_without_one_place_for_the_name_is_refused(template, tiny_clip):
    with pytest.raises(ValueError, match=r"must hold one \{\}"):
        encode_label_names(tiny_clip, ["cat"], template=template)


def test_a_model_of_another_kind_is_refused(tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'bert' model; label embeddings need a CLIP text encoder"):
        encode_label_names(tmp_path, ["cat"])


def test_pickled_weights_are_not_read(tiny_clip, tmp_path):
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="cannot be loaded") as caught:
        encode_label_names(folder, ["cat"])
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="the text encoder 'nobody/no-clip' cannot be loaded") as caught:
        encode_label_names("nobody/no-clip", ["cat"])
    assert "\n" not in str(caught.value)
    assert "or 'random'" in str(caught.value)


@pytest.mark.parametrize("source", ["./no-clip", "/no/such/clip", "a/b/c"])
def test_a_missing_folder_is_not_asked_of_the_hub(source):
    with pytest.raises(FileNotFoundError, match=f"there is no folder '{source}'"):
        encode_label_names(source, ["cat"])
