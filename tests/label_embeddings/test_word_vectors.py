# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import struct
import warnings

import numpy as np
import pytest

import modeling_cssfe.label_embeddings.word_vectors as word_vectors
from modeling_cssfe.label_embeddings import embed_with_word_vectors, resolve_label_embeddings


WORDS = {
    "the": [9.0, 9.0, 9.0],
    "cat": [3.0, 4.0, 0.0],
    "traffic": [1.0, -2.0, 0.5],
    "light": [0.0, 1.0, 2.5],
    "Hund": [0.0, -1.0, 0.0],
    "hund": [5.0, 5.0, 5.0],
    "hot_dog": [0.0, 0.0, 2.0],
    "hot": [1.0, 0.0, 0.0],
    "dog": [0.0, 1.0, 0.0],
    "größe": [-1.0, 0.0, 1.0],
}


def write(path, layout, words=WORDS):
    """The file formats, written by hand: `glove` has no header, `word2vec` and `fasttext` have one, `bin` is binary."""
    if layout.startswith("bin"):
        end = b"\n" if layout == "bin with line breaks" else b""
        rows = [word.encode() + b" " + struct.pack("<3f", *row) + end for word, row in words.items()]
        path.write_bytes(f"{len(words)} 3\n".encode() + b"".join(rows))
    else:
        end = " \n" if layout == "fasttext" else "\n"  # fastText ends its lines with a space
        header = "" if layout == "glove" else f"{len(words)} 3\n"
        rows = [word + " " + " ".join(map(str, row)) + end for word, row in words.items()]
        path.write_text(header + "".join(rows), encoding="utf-8")
    return path


LAYOUTS = {
    "glove": "v.txt",
    "word2vec": "v.txt",
    "fasttext": "v.vec",
    "bin": "v.bin",
    "bin with line breaks": "v.bin",
}


@pytest.mark.parametrize("piece", [1, 7, 1 << 22])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_name_has_the_mean_of_its_words_in_every_format(layout, piece, tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "_PIECE", piece)  # so that words lie across the pieces that are read
    path = write(tmp_path / LAYOUTS[layout], layout)
    names = ["größe", "cat", "traffic light", "traffic_light!", "Traffic-Light", "light (traffic)", "cat cat light"]
    embeddings, provenance = embed_with_word_vectors(path, names, normalize=False)
    both = [0.5, -0.5, 1.5]
    np.testing.assert_allclose(embeddings, [[-1, 0, 1], [3, 4, 0], both, both, both, both, [2, 3, 2.5 / 3]], rtol=1e-6)
    assert provenance["format"] == ("word2vec binary" if layout.startswith("bin") else "text")
    assert provenance["missing_words"] == {}
    unit, _ = resolve_label_embeddings(str(path), names)
    rows = embeddings.double().numpy()
    np.testing.assert_allclose(unit, rows / np.sqrt((rows**2).sum(1, keepdims=True)), atol=1e-6)


def test_a_name_that_is_a_word_of_the_file_is_not_split(tmp_path):
    path = write(tmp_path / "v.txt", "glove")
    embeddings, _ = embed_with_word_vectors(path, ["hot_dog", "hot dog", "Hot_Dog"], normalize=False)
    np.testing.assert_array_equal(embeddings, [[0, 0, 2], [0.5, 0.5, 0], [0, 0, 2]])


def test_the_case_as_written_comes_before_lower_case(tmp_path):
    path = write(tmp_path / "v.txt", "glove")
    embeddings, _ = embed_with_word_vectors(path, ["Hund", "HUND", "hund"], normalize=False)
    np.testing.assert_array_equal(embeddings, [[0, -1, 0], [5, 5, 5], [5, 5, 5]])


def test_a_word_that_stands_twice_has_its_first_vector(tmp_path):
    (tmp_path / "v.txt").write_text("cat 1 2\ndog 3 4\ncat 5 6\n")
    embeddings, _ = embed_with_word_vectors(tmp_path / "v.txt", ["cat", "dog"], normalize=False)
    np.testing.assert_array_equal(embeddings, [[1, 2], [3, 4]])


def test_phrases_of_glove_with_spaces_are_not_taken_for_their_first_word(tmp_path):
    (tmp_path / "v.txt").write_text("a 7 7\ncat . com 1 2\ncat 3 4\n")
    embeddings, _ = embed_with_word_vectors(tmp_path / "v.txt", ["cat"], normalize=False)
    np.testing.assert_array_equal(embeddings, [[3, 4]])


def test_missing_words_are_named(tmp_path):
    path = write(tmp_path / "v.txt", "glove")
    with pytest.warns(UserWarning, match="'v.txt' does not know every word, .*: 'cat flap' lacks 'flap'"):
        embeddings, provenance = embed_with_word_vectors(path, ["cat flap", "dog"], normalize=False)
    np.testing.assert_array_equal(embeddings, [[3, 4, 0], [0, 1, 0]])
    assert provenance["missing_words"] == {"cat flap": ["flap"]}


def test_a_name_without_any_known_word_is_an_error_that_says_the_mend(tmp_path):
    path = write(tmp_path / "v.txt", "glove")
    with pytest.raises(ValueError, match=r"'v.txt' knows no word of 'trafficlight', '-'; give such a label") as caught:
        embed_with_word_vectors(path, ["trafficlight", "cat", "-"])
    assert "\n" not in str(caught.value)
    # The mend itself.
    mended = {"trafficlight": "traffic light", "-": "dog", "*": "{}"}
    embeddings, _ = embed_with_word_vectors(path, ["trafficlight", "cat", "-"], template=mended, normalize=False)
    np.testing.assert_array_equal(embeddings, [[0.5, -0.5, 1.5], [3, 4, 0], [0, 1, 0]])


def test_several_templates_are_averaged_as_unit_vectors(tmp_path):
    path = write(tmp_path / "v.txt", "glove")
    embeddings, _ = embed_with_word_vectors(path, ["cat"], template=["{}", "hot {}"])
    mean = np.array([3, 4, 0]) / 5 + np.array([4, 4, 0]) / np.sqrt(32)
    np.testing.assert_allclose(embeddings[0], mean / np.sqrt((mean**2).sum()), atol=1e-6)


def test_a_vector_of_zeros_has_no_direction(tmp_path):
    (tmp_path / "v.txt").write_text("cat 0 0\n")
    with pytest.raises(ValueError, match=r"'v.txt' gives a vector of zeros"):
        embed_with_word_vectors(tmp_path / "v.txt", ["cat"])


@pytest.mark.parametrize("layout", ["glove", "bin"])
def test_reading_ends_at_the_last_word_looked_for(layout, tmp_path):
    path = write(tmp_path / LAYOUTS[layout], layout)
    whole = path.read_bytes()
    at = whole.index(b"Hund")
    path.write_bytes(whole[:at] + b"\xff" * 10)  # nothing readable follows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embeddings, _ = embed_with_word_vectors(path, ["traffic light", "cat"], normalize=False)
    np.testing.assert_array_equal(embeddings, [[0.5, -0.5, 1.5], [3, 4, 0]])


def test_a_large_file_is_read_in_little_memory(tmp_path):
    import tracemalloc

    path = tmp_path / "v.txt"
    line = " ".join(["0.12345"] * 300)
    with path.open("w") as file:
        for index in range(16_000):  # 38 MB
            file.write(f"w{index} {line}\n")
        file.write("cat " + " ".join(["2"] * 300) + "\n")
    tracemalloc.start()
    embeddings, _ = embed_with_word_vectors(path, ["cat"], normalize=False)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(embeddings, np.full((1, 300), 2.0))
    assert peak < path.stat().st_size / 2  # two pieces of 4 MB and what they are split into


@pytest.mark.parametrize("layout", ["glove", "bin"])
def test_the_progress_bar_counts_the_bytes_of_the_file(layout, tmp_path, monkeypatch, capsys):
    import tqdm

    path = write(tmp_path / LAYOUTS[layout], layout)
    shown = tqdm.tqdm
    # Always shown, and at once, where users have it on a terminal and after a second.
    monkeypatch.setattr(
        tqdm, "tqdm", lambda *args, **options: shown(*args, **{**options, "disable": False, "delay": 0})
    )
    monkeypatch.setattr(word_vectors, "_PIECE", 16)
    embed_with_word_vectors(path, ["größe"])
    last = [line for line in capsys.readouterr().err.split("\r") if path.name in line][-1]
    size = path.stat().st_size
    assert f"{path.name}: " in last
    assert f"/{size}" in last or f"/{size:.3g}" in last  # three figures are shown


@pytest.mark.parametrize("prefix", ["glove:", ""])
def test_the_source_is_known_by_prefix_or_ending(prefix, tmp_path):
    path = write(tmp_path / "v.txt", "glove")
    embeddings, provenance = resolve_label_embeddings(f"{prefix}{path}", ["hot"])
    np.testing.assert_array_equal(embeddings, [[1, 0, 0]])
    assert (provenance["source"], provenance["kind"], provenance["dim"]) == ("v.txt", "word_vectors", 3)
    with pytest.raises(FileNotFoundError, match=r"there is no word vector file '.*none'"):
        resolve_label_embeddings(f"glove:{tmp_path / 'none'}", ["hot"])
    with pytest.raises(ValueError, match="has 3 dimensions, not the 300 asked for"):
        resolve_label_embeddings(f"{prefix}{path}", ["hot"], dim=300)
    with pytest.raises(ValueError, match=r"revision 'main' does not go with 'v.txt'"):
        resolve_label_embeddings(f"{prefix}{path}", ["hot"], revision="main")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.txt", b"", "it ends after 0 words"),
        ("v.txt", b"just some text\n", "line 1 has something else than numbers"),
        ("v.txt", b"dog\n", "its first line is no word with its numbers"),
        ("v.txt", b"dog 1 2 3\ncat 1 2\n", "line 2 has 2 numbers, not 3"),
        ("v.txt", b"dog 1 2\ncat 1 x\n", "line 2 has something else than numbers"),
        ("v.txt", b"3 2\ndog 1 2\nbird 1 2\n", "it ends after 2 words of 3"),
        ("v.txt", b"3 99999\ndog 1 2\n", "its header says 99999 dimensions"),
        ("v.bin", b"", "its first line does not give"),
        ("v.bin", b"PK\x03\x04 a zip archive of torch", "its first line does not give"),
        ("v.bin", b"\x80\x02}q\x00(X\x04\x00\x00\x00pickle", "its first line does not give"),
        ("v.bin", b"\xba\x16\x4f\x2f\x0c\x00\x00\x00", "is a model of fastText's own format; pass its .vec file"),
        ("v.bin", b"2 2\ndog " + struct.pack("<2f", 1, 2) + b"cat " + b"\0" * 7, "it ends after 1 words of 2"),
        ("v.bin", b"2 0\n", "its first line does not give"),
    ],
)
def test_damaged_files_are_one_line_errors(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        resolve_label_embeddings(str(tmp_path / name), ["cat", "dog"])
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(word_vectors, "_PIECE", 64)
    monkeypatch.setattr(word_vectors, "_LONGEST", 256)
    (tmp_path / "v.txt").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="it has a line of more than 16 MB"):
        embed_with_word_vectors(tmp_path / "v.txt", ["cat"])
    (tmp_path / "v.bin").write_bytes(b"9 4\n" + b"x" * 1000)
    with pytest.raises(ValueError, match="it ends after 0 words of 9"):
        embed_with_word_vectors(tmp_path / "v.bin", ["cat"])
