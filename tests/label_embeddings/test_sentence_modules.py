# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from modeling_cssfe.label_embeddings import encode_label_names, resolve_label_embeddings
from modeling_cssfe.label_embeddings.sentence_modules import POOLING


TOKENS = {"cat": [1, 6, 8, 12], "traffic light": [1, 6, 9, 10, 12]}  # "the cat" and "the traffic light"
OLD = "sentence_transformers.models."
WEIGHT = np.arange(24, dtype=np.float32).reshape(3, 8) / 10 - 1


@pytest.fixture
def make(tiny_bert, tmp_path):
    """Writes a sentence-transformers folder around the tiny BERT, module by module."""

    def build(modules, pooling=None, dense=None, general=None, transformer=None):
        folder = shutil.copytree(tiny_bert, tmp_path / "sentence")
        entries = [
            {"idx": index, "name": str(index), "path": path, "type": kind} for index, (kind, path) in enumerate(modules)
        ]
        (folder / "modules.json").write_text(json.dumps(entries))
        for name, content in (("1_Pooling/config.json", pooling), ("2_Dense/config.json", dense)):
            if content is not None:
                (folder / name).parent.mkdir()
                (folder / name).write_text(json.dumps(content))
        if dense is not None:
            weights = {"linear.weight": torch.tensor(WEIGHT)}
            if dense.get("bias", True):
                weights["linear.bias"] = torch.tensor([0.1, 0.2, 0.3])
            save_file(weights, folder / "2_Dense" / "model.safetensors")
        if general is not None:
            (folder / "config_sentence_transformers.json").write_text(json.dumps(general))
        if transformer is not None:
            (folder / "sentence_bert_config.json").write_text(json.dumps(transformer))
        return folder

    return build


def hidden(folder, tokens):
    from transformers import BertModel

    model = BertModel.from_pretrained(folder).double().eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()


EXPECTED = {
    "cls": lambda states: states[0],
    "mean": lambda states: sum(states) / len(states),
    "max": lambda states: np.array([max(column) for column in states.T]),
    "lasttoken": lambda states: states[-1],
}
BASE = [(f"{OLD}Transformer", ""), (f"{OLD}Pooling", "1_Pooling")]


@pytest.mark.parametrize("keys", ["old", "new"])
@pytest.mark.parametrize("mode", POOLING)
def test_the_pooling_mode_of_the_folder_is_honoured(mode, keys, make):
    old = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "lasttoken": "lasttoken"}
    if keys == "old":
        pooling = {f"pooling_mode_{name}": other == mode for other, name in old.items()}
    else:
        pooling = {"embedding_dimension": 8, "pooling_mode": mode, "include_prompt": True}
    folder = make(BASE, pooling)
    embeddings, provenance = encode_label_names(folder, list(TOKENS), template="the {}", normalize=False)
    expected = [EXPECTED[mode](hidden(folder, tokens)) for tokens in TOKENS.values()]
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)
    assert provenance["kind"] == "sentence_encoder"
    assert provenance["modules"] == ["Transformer", f"Pooling({mode})"]


def test_the_modules_of_a_hub_repository_are_honoured(put_on_hub, make):
    folder = make(BASE, {"pooling_mode": "cls"})
    put_on_hub(folder, "nobody/sentence", "d" * 40)
    embeddings, provenance = encode_label_names("nobody/sentence", ["cat"], template="the {}", normalize=False)
    np.testing.assert_allclose(embeddings[0], hidden(folder, TOKENS["cat"])[0], atol=1e-5)
    assert (provenance["source"], provenance["revision"]) == ("nobody/sentence", "d" * 40)


def test_two_modes_are_joined(make):
    folder = make(BASE, {"pooling_mode": ["cls", "mean"]})
    embeddings, _ = encode_label_names(folder, ["cat"], template="the {}", normalize=False)
    states = hidden(folder, TOKENS["cat"])
    np.testing.assert_allclose(embeddings[0], np.concatenate([states[0], states.mean(0)]), atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "function", "bias"),
    [("torch.nn.modules.activation.Tanh", np.tanh, True), ("torch.nn.modules.linear.Identity", lambda x: x, False)],
)
def test_dense_and_normalize_follow(activation, function, bias, make):
    dense = {"in_features": 8, "out_features": 3, "bias": bias, "activation_function": activation}
    new = "sentence_transformers.base.modules."
    modules = [*BASE, (f"{new}dense.Dense", "2_Dense"), (f"{new}normalize.Normalize", "3_Normalize")]
    folder = make(modules, {"pooling_mode": "mean"}, dense)
    embeddings, provenance = encode_label_names(folder, ["cat"], template="the {}", normalize=False)
    mean = hidden(folder, TOKENS["cat"]).mean(0)
    expected = function(WEIGHT.astype(np.float64) @ mean + (np.array([0.1, 0.2, 0.3]) if bias else 0))
    np.testing.assert_allclose(embeddings[0], expected / np.sqrt((expected**2).sum()), atol=1e-5)
    assert provenance["modules"] == ["Transformer", "Pooling(mean)", "Dense", "Normalize"]


def test_the_default_prompt_lower_case_and_the_length_are_honoured(make):
    general = {"prompts": {"query": "a photo of "}, "default_prompt_name": "query"}
    folder = make(BASE, {"pooling_mode": "mean"}, None, general, {"max_seq_length": 6, "do_lower_case": True})
    with pytest.warns(UserWarning, match="has 7 tokens, more than the 6 of the encoder"):
        embeddings, provenance = encode_label_names(folder, ["CAT"], template="THE {}", normalize=False)
    # <start> a photo of the <end>, as the end token stays and "cat" is cut off.
    np.testing.assert_allclose(embeddings[0], hidden(folder, [1, 3, 4, 5, 6, 12]).mean(0), atol=1e-5)
    assert provenance["prompt"] == "a photo of "


def test_a_transformer_in_a_folder_of_its_own_is_found(make, tmp_path):
    folder = make([(f"{OLD}Transformer", "0_Transformer"), BASE[1]], {"pooling_mode": "cls"})
    (folder / "0_Transformer").mkdir()
    for path in folder.glob("*.*"):
        if path.name != "modules.json":
            path.rename(folder / "0_Transformer" / path.name)
    embeddings, _ = encode_label_names(folder, ["cat"], template="the {}", normalize=False)
    np.testing.assert_allclose(embeddings[0], hidden(folder / "0_Transformer", TOKENS["cat"])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("modules", "options", "message"),
    [
        ([*BASE, (f"{OLD}LayerNorm", "2_LayerNorm")], {}, "with the module LayerNorm"),
        ([*BASE, ("somebody.Pooling", "2_Pooling")], {}, "with the module 'somebody.Pooling'"),
        ([*BASE, (f"{OLD}Normalize", "../elsewhere")], {}, "at '../elsewhere'"),
        ([BASE[0]], {}, "with the order of modules Transformer"),
        ([*BASE, BASE[1]], {}, "with the order of modules Transformer, Pooling, Pooling"),
        (BASE, {"pooling": {"pooling_mode": "weightedmean"}}, "with the pooling mode 'weightedmean'"),
        (BASE, {"pooling": None}, "a Pooling module that has no config.json"),
        (
            BASE,
            {
                "pooling": {"pooling_mode": "mean", "include_prompt": False},
                "general": {"prompts": {"q": "query: "}, "default_prompt_name": "q"},
            },
            "pooling that leaves the prompt out",
        ),
        (
            [*BASE, (f"{OLD}Dense", "2_Dense")],
            {"dense": {"activation_function": "os.system"}},
            "activation 'os.system'",
        ),
        ([*BASE, (f"{OLD}Dense", "2_Dense")], {"dense": {"use_residual": True}}, "a Dense module with a residual"),
        (BASE, {"transformer": {"modality_config": {"text": {"method": "get_text_features"}}}}, "with text through"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(modules, options, message, make):
    folder = make(modules, **{"pooling": {"pooling_mode": "mean"}, **options})
    with pytest.raises(ValueError, match=message) as caught:
        encode_label_names(folder, ["cat"])
    assert "\n" not in str(caught.value)


def test_a_dense_module_with_pickled_weights_only_is_refused(make):
    folder = make([*BASE, (f"{OLD}Dense", "2_Dense")], {"pooling_mode": "mean"}, {"bias": True})
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no 2_Dense/model.safetensors, and other weight files are not read"):
        encode_label_names(folder, ["cat"])


@pytest.mark.slow  # the library takes ten seconds and more to import
@pytest.mark.skipif(not importlib.util.find_spec("sentence_transformers"), reason="sentence-transformers is not here")
@pytest.mark.parametrize("mode", POOLING)
def test_the_sentence_transformers_library_gives_the_same(mode, make):
    from sentence_transformers import SentenceTransformer

    activation = "torch.nn.modules.activation.GELU"
    dense = {"in_features": 8, "out_features": 3, "bias": True, "activation_function": activation}
    modules = [*BASE, (f"{OLD}Dense", "2_Dense"), (f"{OLD}Normalize", "3_Normalize")]
    folder = make(modules, {"word_embedding_dimension": 8, "pooling_mode": mode}, dense)
    names = ["cat", "traffic light", "dog"]
    embeddings, _ = resolve_label_embeddings(str(folder), names, template="a photo of a {}")
    texts = [f"a photo of a {name}" for name in names]
    np.testing.assert_allclose(embeddings, SentenceTransformer(str(folder), device="cpu").encode(texts), atol=1e-6)
