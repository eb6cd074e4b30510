# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json
import shutil

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_text import CLIP_WORDS, save_tokenizer

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
    assert len(provenance.pop("sha256")) == 64
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
    one_by_one, _ = encode_label_names(tiny_clip, names, batch_size=1, use_cache=False)
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


def test_a_model_that_reads_no_text_is_refused(tmp_path, tiny_bert):
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=16)
    ViTModel(config).save_pretrained(tmp_path)
    for file in tiny_bert.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(ValueError, match="is a 'vit' model, which reads pixel_values, not text; pass a text encoder"):
        encode_label_names(tmp_path, ["cat"])


def test_a_model_of_text_and_images_that_is_not_known_is_refused(tmp_path):
    from transformers import AltCLIPConfig

    AltCLIPConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is a 'altclip' model, whose text part is not supported; pass a CLIP"):
        encode_label_names(tmp_path, ["cat"])


def test_weights_that_lack_a_part_are_refused(tiny_clip, tmp_path):
    folder = shutil.copytree(tiny_clip, tmp_path / "clip")
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor for name, tensor in weights.items() if "projection" not in name}, folder / "model.safetensors"
    )
    with pytest.raises(ValueError, match=r"lacks 1 weights of its text encoder, such as 'text_projection.weight'"):
        encode_label_names(folder, ["cat"])


def bert_hidden(folder, tokens: list[int]) -> np.ndarray:
    """The last hidden states `(tokens, dim)` of one text without padding, in float64."""
    from transformers import BertModel

    model = BertModel.from_pretrained(folder).double().eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()


def test_bert_gives_the_mean_over_all_tokens_but_padding(tiny_bert):
    embeddings, provenance = encode_label_names(tiny_bert, ["cat", "traffic_light"], template="the {}")
    for row, tokens in zip(embeddings, ([1, 6, 8, 12], [1, 6, 9, 10, 12]), strict=True):
        mean = bert_hidden(tiny_bert, tokens).mean(0)
        np.testing.assert_allclose(row, mean / np.sqrt((mean**2).sum()), atol=1e-5)
    assert provenance["kind"] == "text_encoder"
    assert (provenance["model_type"], provenance["pooling"]) == ("bert", "mean")


def test_of_an_encoder_and_decoder_the_encoder_is_taken(tiny_bert, tmp_path):
    from transformers import T5Config, T5Model

    folder = shutil.copytree(tiny_bert, tmp_path / "t5")
    torch.manual_seed(0)
    model = T5Model(T5Config(vocab_size=13, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)).eval()
    model.save_pretrained(folder)
    embeddings, _ = encode_label_names(folder, ["cat", "traffic light"], template="the {}", normalize=False)
    for row, tokens in zip(embeddings, ([1, 6, 8, 12], [1, 6, 9, 10, 12]), strict=True):
        with torch.no_grad():
            expected = model.encoder.double()(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_a_tokenizer_without_padding_pads_with_its_end_and_leaves_that_out(tiny_bert, tmp_path):
    from transformers import GPT2Config, GPT2Model

    folder = shutil.copytree(tiny_bert, tmp_path / "gpt2")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=13, n_embd=8, n_layer=2, n_head=2, n_positions=16)).eval()
    model.save_pretrained(folder)
    embeddings, _ = encode_label_names(folder, ["cat", "traffic light"], template="the {}", normalize=False)
    for row, tokens in zip(embeddings, ([1, 6, 8, 12], [1, 6, 9, 10, 12]), strict=True):
        with torch.no_grad():
            expected = model.double()(input_ids=torch.tensor([tokens])).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, expected, atol=1e-5)


def test_without_normalisation_the_encoders_own_lengths_stay(tiny_bert):
    embeddings, provenance = encode_label_names(tiny_bert, ["cat"], template="the {}", normalize=False)
    np.testing.assert_allclose(embeddings[0], bert_hidden(tiny_bert, [1, 6, 8, 12]).mean(0), atol=1e-5)
    assert provenance["normalize"] is False


def test_several_templates_are_the_mean_of_unit_vectors_made_a_unit_vector(tiny_clip):
    templates = ["a photo of a {}.", "the {}"]
    embeddings, provenance = encode_label_names(tiny_clip, ["dog", "cat"], template=templates)
    for row, word in zip(embeddings, (11, 8), strict=True):
        # `reference` gives unit vectors.
        mean = (reference(tiny_clip, [1, 3, 4, 5, 3, word, 7, 12]) + reference(tiny_clip, [1, 6, word, 12])) / 2
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    assert provenance["template"] == templates


def test_a_class_may_have_templates_of_its_own(tiny_clip):
    template = {"dog": "the {}", "cat": ["a cat", "the {}"], "*": "a {}"}
    embeddings, provenance = encode_label_names(tiny_clip, ["light", "cat", "dog"], template=template)
    cat = reference(tiny_clip, [1, 3, 8, 12]) + reference(tiny_clip, [1, 6, 8, 12])
    expected = [reference(tiny_clip, [1, 3, 10, 12]), cat / np.linalg.norm(cat), reference(tiny_clip, [1, 6, 11, 12])]
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert provenance["template"] == template


def test_siglip_gives_its_head_on_the_last_padded_token(tmp_path):
    from transformers import SiglipTextConfig, SiglipTextModel

    save_tokenizer(tmp_path, CLIP_WORDS, "<start>", "<end>")
    config = SiglipTextConfig(
        vocab_size=len(CLIP_WORDS),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=10,
        projection_size=6,
    )
    torch.manual_seed(0)
    model = SiglipTextModel(config).eval()
    model.save_pretrained(tmp_path)
    embeddings, provenance = encode_label_names(tmp_path, ["cat"], template="a {}")
    tokens = torch.tensor([[1, 3, 8, 12, 0, 0, 0, 0, 0, 0]])  # padded to the full length, and all attended to
    with torch.no_grad():
        last = model(input_ids=tokens).last_hidden_state[0, -1].double()
    expected = (model.head.weight.detach().double() @ last + model.head.bias.detach().double()).numpy()
    np.testing.assert_allclose(embeddings[0], expected / np.linalg.norm(expected), atol=1e-5)
    assert provenance["kind"] == "siglip"


def test_a_text_that_is_too_long_is_named(tiny_clip):
    with pytest.warns(UserWarning, match=r"the text 'a photo of a .*' has 27 tokens, more than the 16 of the encoder"):
        encode_label_names(tiny_clip, ["cat " * 20])


def test_a_batch_size_below_one_is_refused(tiny_clip):
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        encode_label_names(tiny_clip, ["cat"], batch_size=0)


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


def test_an_archive_is_to_be_unpacked(tmp_path):
    (tmp_path / "glove.zip").write_bytes(b"PK")
    with pytest.raises(ValueError, match="is a file of a kind that holds no label embeddings; unpack an archive first"):
        encode_label_names(tmp_path / "glove.zip", ["cat"])


def test_a_folder_has_no_revision(tiny_clip):
    with pytest.raises(ValueError, match="is a folder, which has no revision; leave revision='main' out"):
        encode_label_names(tiny_clip, ["cat"], revision="main")


# ---- repositories of the Hub, as its cache keeps them ----------------------------------------------------------------


def test_a_hub_name_is_cached_by_its_commit(put_on_hub, tiny_clip, tiny_bert, own_cache):
    first, second = "a" * 40, "b" * 40
    put_on_hub(tiny_clip, "nobody/tiny", first)
    embeddings, provenance = encode_label_names("nobody/tiny", ["cat"])
    assert (provenance["source"], provenance["revision"]) == ("nobody/tiny", first)
    assert torch.equal(embeddings, encode_label_names(tiny_clip, ["cat"], use_cache=False)[0])
    assert len(list(own_cache.iterdir())) == 1
    # The repository moves on to another model: the old file is not taken for it.
    put_on_hub(tiny_bert, "nobody/tiny", second)
    with pytest.warns(UserWarning, match="nobody knows whether 'nobody/tiny' is a sentence encoder"):
        moved, provenance = encode_label_names("nobody/tiny", ["cat"])
    assert (provenance["revision"], moved.shape) == (second, (1, 8))
    assert len(list(own_cache.iterdir())) == 2
    pinned, provenance = encode_label_names("nobody/tiny", ["cat"], revision=first)
    assert torch.equal(pinned, embeddings)
    assert len(list(own_cache.iterdir())) == 2
