# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A tokenizer of a few words."""

from pathlib import Path


# The end token has the highest id, as in CLIP itself.
CLIP_WORDS = ["<pad>", "<start>", "<unk>", "a", "photo", "of", "the", ".", "cat", "traffic", "light", "dog", "<end>"]


def save_tokenizer(folder: Path, words: list[str], start: str, end: str) -> None:
    """A tokenizer that splits at spaces and punctuation and knows these words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, words.index(start)), (end, words.index(end))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token=start,
        eos_token=end,
        model_max_length=16,
    ).save_pretrained(folder)
