# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Text encoders small enough to make in a test, and a cache of the test's own."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from tiny_text import CLIP_WORDS, save_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> Path:
    """The default cache folder, which no other test has written to."""
    home = tmp_path_factory.mktemp("hf-home")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(home))
    return home / "cssfe" / "label_embeddings"


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory) -> Path:
    """A folder with a random BERT of 8 dimensions whose tokenizer knows the words of `CLIP_WORDS`."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tiny-bert")
    save_tokenizer(folder, CLIP_WORDS, "<start>", "<end>")
    config = BertConfig(
        vocab_size=len(CLIP_WORDS),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory) -> Path:
    """A folder with a random CLIP text encoder of 6 output dimensions and a tokenizer that knows a few words."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = tmp_path_factory.mktemp("tiny-clip")
    save_tokenizer(folder, CLIP_WORDS, "<start>", "<end>")
    config = CLIPTextConfig(
        vocab_size=len(CLIP_WORDS),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=6,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=12,
    )
    torch.manual_seed(0)
    CLIPTextModelWithProjection(config).save_pretrained(folder)
    return folder


@pytest.fixture
def put_on_hub(tmp_path, monkeypatch):
    """Puts a folder into an offline Hub cache as a repository at a commit."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, name: str, commit: str) -> None:
        repository = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text(commit)

    return put
