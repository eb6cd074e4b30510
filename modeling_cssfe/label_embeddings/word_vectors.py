# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Class names from files of word vectors: GloVe, word2vec, fastText.

| ending | format |
|---|---|
| `.txt`, `.vec`, any other after `glove:` | text, a word and its numbers a line (GloVe: Pennington et al., 2014); a first line of two integers is a header (word2vec, fastText) |
| `.bin` | word2vec's binary format (Mikolov et al., 2013): header line, then word, space, float32 values |

A name that is itself a word of the file, as written or in lower case, has that word's vector. Any other is split at
white space, `_`, `-`, `/`, commas and brackets, and has the mean of its words' vectors, those that the file knows.

Files of several GB are read in pieces of a few MB and never held. Nothing is cached: reading ends at the last word
that is looked for, and frequent words come first, while the content hash of such a file alone takes longer.
"""  # noqa: E501 (a table row cannot be broken)

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from .checks import check_embeddings, check_label_names
from .templates import Templates, described, texts_of_names
from .text_encoders import mean_of_texts


GLOVE = "glove:"
SUFFIXES = (".txt", ".vec", ".bin")
DEFAULT_WORDS = "{}"

_PIECE = 1 << 22  # bytes read at a time
_LONGEST = 1 << 24  # a line or word of more bytes is none
_MAX_DIM = 1 << 16
_FASTTEXT_MAGIC = b"\xba\x16\x4f\x2f"  # 793712314, the first four bytes of fastText's own model files
_BETWEEN_WORDS = re.compile(r"[\s_\-/,()\[\]]+")


def embed_with_word_vectors(
    path: str | os.PathLike,
    label_names: Sequence[str],
    *,
    template: Templates | None = None,
    normalize: bool = True,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Embed class names with a file of word vectors.

    Args:
        path: The file; see the table above.
        label_names: The classes.
        template: By default the name alone; else as for a text encoder, the mean being over all words of the text. A
            mapping gives names that no file knows words of their own: `{"tvmonitor": "tv monitor", "*": "{}"}`.
        normalize: Scale each mean to length 1.

    Returns:
        `(classes, dim)` fp32, and the provenance; its `missing_words` has the words that the file lacks, by class.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A name has no word in the file, or the file is damaged or no file of word vectors.
    """
    names = check_label_names(label_names)
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no word vector file {str(path)!r}; check the path.")
    template = DEFAULT_WORDS if template is None else template
    texts = texts_of_names(names, template, underscores_to_spaces=False)
    wanted: set[bytes] = set()
    certain: set[bytes] = set()
    for text in (text for own in texts for text in own):
        # No word of these formats holds a space, so a text with one is never a word of its own.
        for word in (*_words(text), *(() if " " in text else (text,))):
            wanted.update(form.encode() for form in _forms(word))
            # Once all words are found as they are written, nothing later in the file can change the result.
            certain.add(word.encode())
    found, form = _read(path, wanted, certain)
    vectors, hopeless = [], []
    missing: dict[str, list[str]] = {}
    for name, own in zip(names, texts, strict=True):
        for text in own:
            known, unknown = _known_words(text, found)
            if not known:
                hopeless.append(name)
            if unknown:
                missing.setdefault(name, []).extend(word for word in unknown if word not in missing.get(name, []))
            vectors.append(np.mean([found[word] for word in known], axis=0) if known else np.zeros(1))
    if hopeless:
        raise ValueError(_nothing_known(path, list(dict.fromkeys(hopeless))))
    if missing:
        listed = "; ".join(f"{name!r} lacks {', '.join(map(repr, words))}" for name, words in list(missing.items())[:5])
        more = f"; and {len(missing) - 5} more labels" if len(missing) > 5 else ""
        warnings.warn(f"{path.name!r} does not know every word, the rest is averaged: {listed}{more}.", stacklevel=2)
    rows = mean_of_texts(torch.from_numpy(np.stack(vectors)), [len(own) for own in texts], normalize, path.name)
    provenance: dict[str, Any] = {
        "source": path.name,
        "kind": "word_vectors",
        "format": form,
        "file_bytes": path.stat().st_size,
        "template": described(template),
        "missing_words": missing,
    }
    if not normalize:
        provenance["normalize"] = False
    return check_embeddings(rows, len(names), f"the vectors of {path.name!r}"), provenance


def _words(text: str) -> list[str]:
    parts = (part.strip(".!?;:\"'") for part in _BETWEEN_WORDS.split(text))
    return [part for part in parts if part]


def _forms(word: str) -> list[str]:
    return [word] if word == word.lower() else [word, word.lower()]


def _known_words(text: str, found: dict[bytes, np.ndarray]) -> tuple[list[bytes], list[str]]:
    whole = next((form.encode() for form in _forms(text) if form.encode() in found), None)
    if whole is not None:
        return [whole], []
    known, unknown = [], []
    for word in _words(text):
        form = next((form.encode() for form in _forms(word) if form.encode() in found), None)
        if form is None:
            unknown.append(word)
        else:
            known.append(form)
    return known, unknown


def _nothing_known(path: Path, names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    listed = ", ".join(map(repr, names[:5])) + more
    return (
        f"{path.name!r} knows no word of {listed}; give such a label other words with a template of its own, such as "
        f"{{{names[0]!r}: 'other words', '*': '{{}}'}}."
    )


def _read(path: Path, wanted: set[bytes], certain: set[bytes]) -> tuple[dict[bytes, np.ndarray], str]:
    """Vectors of the wanted words that the file knows, and the file's format."""
    with path.open("rb") as file:
        if path.suffix == ".bin":
            return _read_binary(file, path, wanted, certain), "word2vec binary"
        return _read_text(file, path, wanted, certain), "text"


def _read_text(file: BinaryIO, path: Path, wanted: set[bytes], certain: set[bytes]) -> dict[bytes, np.ndarray]:
    found: dict[bytes, np.ndarray] = {}
    still = set(certain)
    dim, number, count = 0, 0, None
    for line in _lines(file, path):
        number += 1
        if number == 1:
            head = line.split()
            if len(head) == 2 and all(part.isdigit() for part in head):
                count, dim = int(head[0]), int(head[1])
                if not 0 < dim <= _MAX_DIM:
                    raise _damaged(path, f"its header says {dim} dimensions")
                continue
        if not dim:
            dim = len(line.split()) - 1
            if not 0 < dim <= _MAX_DIM:
                raise _damaged(path, "its first line is no word with its numbers")
            _numbers(line.split()[1:], path, number)
        word = line[: line.find(b" ")]
        if word not in wanted or word in found:
            continue
        fields = line.rstrip().rsplit(b" ", dim)
        if fields[0] != word and len(fields) == dim + 1:
            continue  # a phrase that starts with the word: GloVe's 840B file has some
        if len(fields) != dim + 1:
            raise _damaged(path, f"line {number} has {len(fields) - 1} numbers, not {dim}")
        found[word] = _numbers(fields[1:], path, number)
        still.discard(word)
        if not still:
            return found
    if not number or (count is not None and number - 1 != count):
        raise _damaged(path, f"it ends after {max(number - 1, 0)} words" + (f" of {count}" if count else ""))
    return found


def _lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    rest = b""
    with _progress(path) as advance:
        while piece := file.read(_PIECE):
            advance(len(piece))
            *lines, rest = (rest + piece).split(b"\n")
            yield from (line for line in lines if line)
            if len(rest) > _LONGEST:
                raise _damaged(path, "it has a line of more than 16 MB")
    if rest:
        yield rest


def _numbers(fields: Sequence[bytes], path: Path, number: int) -> np.ndarray:
    try:
        return np.array([float(field) for field in fields])
    except ValueError:
        raise _damaged(path, f"line {number} has something else than numbers after its word") from None


def _read_binary(file: BinaryIO, path: Path, wanted: set[bytes], certain: set[bytes]) -> dict[bytes, np.ndarray]:
    header = file.readline(100)
    if header.startswith(_FASTTEXT_MAGIC):
        raise ValueError(f"{str(path)!r} is a model of fastText's own format; pass its .vec file.")
    parts = header.split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts) or not 0 < int(parts[1]) <= _MAX_DIM:
        raise _damaged(path, "its first line does not give the number of words and of dimensions")
    count, dim = int(parts[0]), int(parts[1])
    found: dict[bytes, np.ndarray] = {}
    still = set(certain)
    data, at = b"", 0
    with _progress(path) as advance:
        for index in range(count):
            while (space := data.find(b" ", at)) < 0 or len(data) < space + 1 + 4 * dim:
                piece = file.read(_PIECE)
                if not piece or len(data) - at > _LONGEST:
                    raise _damaged(path, f"it ends after {index} words of {count}")
                advance(len(piece))
                data, at = data[at:] + piece, 0
            word = data[at:space].lstrip(b"\n")  # some writers end each entry with a line break
            at = space + 1 + 4 * dim
            if word in wanted and word not in found:
                found[word] = np.frombuffer(data, "<f4", dim, space + 1).astype(np.float64)
                still.discard(word)
                if not still:
                    break
    return found


@contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], Any]]:
    from tqdm import tqdm

    # A bar where somebody looks, and only if it takes longer than a second.
    size = path.stat().st_size
    with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None, delay=1, leave=False) as bar:
        yield bar.update


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{str(path)!r} is no whole file of word vectors: {why}; copy it again, or pass another.")


__all__ = ["DEFAULT_WORDS", "GLOVE", "SUFFIXES", "embed_with_word_vectors"]
