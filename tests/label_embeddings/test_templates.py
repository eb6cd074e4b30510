# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import json

import pytest

from modeling_cssfe.label_embeddings import load_templates
from modeling_cssfe.label_embeddings.templates import described, texts_of_names


NAMES = ["zebra", "stop_sign"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("a {}!", [["a zebra!"], ["a stop sign!"]]),
        (["a {}", "the {}"], [["a zebra", "the zebra"], ["a stop sign", "the stop sign"]]),
        ({"zebra": "a striped horse", "*": "a {}"}, [["a striped horse"], ["a stop sign"]]),
        ({"zebra": ["{}s", "one {}"], "stop_sign": "{}"}, [["zebras", "one zebra"], ["stop sign"]]),
    ],
)
def test_every_class_has_its_texts(template, expected):
    assert texts_of_names(NAMES, template) == expected


def test_underscores_stay_where_words_are_looked_up():
    assert texts_of_names(NAMES, "{}", underscores_to_spaces=False) == [["zebra"], ["stop_sign"]]


def test_a_name_with_braces_is_inserted_as_it_is():
    assert texts_of_names(["a{}b"], "x {}") == [["x a{}b"]]


@pytest.mark.parametrize(
    ("template", "error", "message"),
    [
        ("a photo", ValueError, r"template 'a photo' must hold one \{\}"),
        (["{}", "{} {}"], ValueError, r"template '\{\} \{\}' must hold one \{\}"),
        ([], ValueError, "template is an empty list"),
        (3, TypeError, "template must be a text or a list of texts, got 3"),
        (["{}", 3], TypeError, "must be a text or a list of texts"),
        ({"zebra": "{}"}, ValueError, r"there is no template for 'stop_sign'; add one, or one for all others as '\*'"),
        ({"zebr": "{}", "*": "{}"}, ValueError, "a template for 'zebr', which is no label; did you mean 'zebra'"),
        ({"*": "a thing"}, ValueError, r"'a thing' must hold one \{\}"),
        ({"zebra": "", "*": "{}"}, ValueError, "mend the template of 'zebra'"),
        ({"zebra": "{0}", "*": "{}"}, ValueError, "mend the template of 'zebra'"),
    ],
)
def test_bad_templates_are_one_line_errors(template, error, message):
    with pytest.raises(error, match=message) as caught:
        texts_of_names(NAMES, template)
    assert "\n" not in str(caught.value)


def test_templates_are_described_as_json_gives_them_back():
    for template in ("a {}", ["a {}", "the {}"], {"zebra": ["{}", "a {}"], "*": "{}"}):
        assert json.loads(json.dumps(described(template))) == template
    assert described(["a {}"]) == "a {}"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("t.json", '{"zebra": ["a {}", "{}s"], "*": "{}"}', {"zebra": ["a {}", "{}s"], "*": "{}"}),
        ("t.json", '["a {}", "the {}"]', ["a {}", "the {}"]),
        ("t.yaml", "zebra: a striped horse\n'*': a {}\n", {"zebra": "a striped horse", "*": "a {}"}),
        ("t.yml", "- a {}\n- the {}\n", ["a {}", "the {}"]),
    ],
)
def test_templates_come_from_json_and_yaml(name, text, expected, tmp_path):
    (tmp_path / name).write_text(text)
    assert load_templates(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.txt", "a {}", "ends in '.txt'; give a .json, .yaml or .yml file"),
        ("t.json", "{", "cannot be read"),
        ("t.json", '{"zebra": "{}", "zebra": "a {}"}', "'zebra' stands twice"),
        ("t.yaml", "zebra: '{}'\nzebra: a {}\n", "'zebra' stands twice"),
        ("t.yaml", "no: a {}\n", "holds False: 'a {}'; give a text"),
        ("t.yaml", "zebra: 3\n", "holds 'zebra': 3"),
        ("t.yaml", "? [a]\n: b\n", "cannot be read"),
        ("t.yaml", "!!python/object/apply:os.getcwd []\n", "cannot be read"),
        ("t.yaml", "", "holds 'template': None"),
    ],
)
def test_bad_templates_files_are_one_line_errors(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        load_templates(tmp_path / name)
    assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match="there is no templates file"):
        load_templates(tmp_path / "none.json")
