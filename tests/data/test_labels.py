# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
import math

import pytest

from modeling_cssfe.data.readers.labels import (
    ALL_UNKNOWN,
    LabelOptions,
    RowLabels,
    are_multi_hot,
    check_label_names,
    label_ids,
    name_numbers,
    parse_label_columns,
    parse_label_list,
    pick_labels,
    sorted_names,
)


NAMES = ["ant", "bee", "cat"]


def present(rows: list[RowLabels]) -> list[list]:
    return [list(row.present) for row in rows]


@pytest.mark.parametrize(
    "cells",
    [
        [["ant", "cat"], [], ["bee"]],
        [["ant ", " cat"], [], ["bee"]],
        ["ant|cat", "", "bee"],
        ["ant; cat", " ", "bee "],
        ["ant,cat,", "", "bee"],
        ['["ant", "cat"]', "[]", '["bee"]'],
        ["['ant', 'cat']", "[]", "['bee']"],
    ],
)
def test_every_way_to_list_labels_gives_the_same(cells):
    assert present(parse_label_list(cells, LabelOptions(), "here")) == [["ant", "cat"], [], ["bee"]]


@pytest.mark.parametrize("cells", [["[1, 0, 1]", "[0, 1, 0]"], [[1, 0, 1], [0, 1, 0]]])
def test_numbers_in_lists_stay_numbers(cells):
    rows = parse_label_list(cells, LabelOptions(), "here")
    assert present(rows) == [[1, 0, 1], [0, 1, 0]]
    assert present(name_numbers(rows, NAMES, "here", are_multi_hot(rows, 3))) == [["ant", "cat"], ["bee"]]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("['ant', None]", "row 0 lists an empty label"),
        (["ant", " "], "row 0 lists an empty label"),
        ("[['ant']]", r"row 0 lists \['ant'\] for a label; give names, or class ids"),
        ([["ant"]], r"row 0 lists \['ant'\] for a label"),
        ("['ant', {'bee': 1}]", r"row 0 lists {'bee': 1} for a label"),
    ],
)
def test_what_is_no_label_is_named(cell, message):
    with pytest.raises(ValueError, match=message):
        parse_label_list([cell], LabelOptions(), "here")


def test_spaces_separate_labels_only_if_that_is_said():
    cells = ["traffic light", "bus"]
    assert present(parse_label_list(cells, LabelOptions(), "here")) == [["traffic light"], ["bus"]]
    assert present(parse_label_list(cells, LabelOptions(delimiter=" "), "here")) == [["traffic", "light"], ["bus"]]


def test_two_possible_delimiters_are_a_question_to_the_user():
    with pytest.raises(ValueError, match=r"holds '\|' and ','; say with delimiter="):
        parse_label_list(["a|b", "c, d"], LabelOptions(), "here")
    assert present(parse_label_list(["a|b", "c, d"], LabelOptions(delimiter="|"), "here")) == [["a", "b"], ["c, d"]]


@pytest.mark.parametrize(("rule", "expected"), [("unknown", ALL_UNKNOWN), ("negative", RowLabels())])
def test_a_missing_cell_means_what_the_option_says(rule, expected):
    rows = parse_label_list([["ant"], None], LabelOptions(empty_cells=rule), "here")
    assert rows[1] == expected
    with pytest.raises(ValueError, match="row 1 is empty; say with empty_cells="):
        parse_label_list([["ant"], None], LabelOptions(), "here")


@pytest.mark.parametrize("cell", ["", "  "])
def test_empty_text_is_an_image_without_labels_unless_empty_cells_are_unknown(cell):
    for rule in ("error", "negative"):
        assert parse_label_list(["ant", cell], LabelOptions(empty_cells=rule), "here")[1] == RowLabels()
    unknown = LabelOptions(empty_cells="unknown")
    assert parse_label_list(["ant", cell, "[]", []], unknown, "here")[1:] == [ALL_UNKNOWN, RowLabels(), RowLabels()]


def test_label_columns_hold_present_absent_and_unknown():
    columns = {"ant": ["1", "0", "-1"], "bee": [0, 1.0, -1], "cat": [True, False, "TRUE"]}
    rows = parse_label_columns(columns, LabelOptions(), "here")
    assert rows == [RowLabels(("ant", "cat")), RowLabels(("bee",)), RowLabels(("cat",), ("ant", "bee"))]


@pytest.mark.parametrize("empty", ["", None, float("nan")])
def test_empty_cells_of_label_columns_follow_the_option(empty):
    columns = {"ant": [1, empty]}
    assert parse_label_columns(columns, LabelOptions(empty_cells="negative"), "here")[1] == RowLabels()
    assert parse_label_columns(columns, LabelOptions(empty_cells="unknown"), "here")[1] == RowLabels((), ("ant",))
    with pytest.raises(ValueError, match="column 'ant', row 1 is empty"):
        parse_label_columns(columns, LabelOptions(), "here")


@pytest.mark.parametrize("cell", [2, "yes", 0.5])
def test_a_cell_that_is_no_truth_value_is_named(cell):
    with pytest.raises(ValueError, match=r"column 'ant', row 0 is .* holds 1, 0 or -1"):
        parse_label_columns({"ant": [cell]}, LabelOptions(), "here")


def test_the_label_column_is_found_and_otherwise_all_columns_must_be_labels():
    options = LabelOptions()
    assert pick_labels({"age": [3], "labels": [["ant"]]}, options, "here") == ([RowLabels(("ant",))], None)
    assert pick_labels({"bee": [1], "ant": [0]}, options, "here") == ([RowLabels(("bee",))], ["bee", "ant"])
    with pytest.raises(ValueError, match="column 'age' is no label column of 1, 0 and -1; name the columns"):
        pick_labels({"ant": [1], "age": [34]}, options, "here")
    chosen = LabelOptions(label_columns=("ant",))
    assert pick_labels({"ant": [1], "age": [34]}, chosen, "here") == ([RowLabels(("ant",))], ["ant"])
    with pytest.raises(ValueError, match=r"no column 'lables'; its columns are labels\. Did you mean 'labels'\?"):
        pick_labels({"labels": [["ant"]]}, LabelOptions(labels_column="lables"), "here")
    with pytest.raises(ValueError, match="here has no labels"):
        pick_labels({}, options, "here")


def test_ids_follow_the_order_of_the_names_and_appear_once():
    rows = [RowLabels(("cat", "ant", "cat"), ("bee",)), ALL_UNKNOWN, RowLabels()]
    assert label_ids(rows, NAMES, "here") == ([[0, 2], [], []], [[1], [0, 1, 2], []])


def test_an_unknown_label_is_named_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"here, row 1: unknown label 'cats', did you mean 'cat'\?"):
        label_ids([RowLabels(), RowLabels(("cats",))], NAMES, "here")
    with pytest.raises(ValueError, match="row 0: label 'ant' is both present and unknown"):
        label_ids([RowLabels(("ant",), ("ant",))], NAMES, "here")


def test_names_without_an_order_of_their_own_are_sorted():
    assert sorted_names([RowLabels(("cat",)), ALL_UNKNOWN, RowLabels(("ant",), ("bee",))], "here") == NAMES
    with pytest.raises(ValueError, match="label 3 is a number without a name"):
        sorted_names([RowLabels((3,))], "here")
    with pytest.raises(ValueError, match="no image has a label"):
        sorted_names([RowLabels()], "here")


def test_numbers_are_ids_or_multi_hot_vectors():
    ids = [RowLabels((0, 2)), RowLabels()]
    assert not are_multi_hot(ids, 3)
    assert name_numbers(ids, NAMES, "here", False) == [RowLabels(("ant", "cat")), RowLabels()]
    vectors = [RowLabels((1, 0, 1)), RowLabels((0.0, -1.0, 0.0)), RowLabels((math.nan, 1, 0)), ALL_UNKNOWN]
    assert are_multi_hot(vectors, 3)
    named = [RowLabels(("ant", "cat")), RowLabels((), ("bee",)), RowLabels(("bee",), ("ant",))]
    assert name_numbers(vectors[:3], NAMES, "here", True) == named
    assert name_numbers(vectors, NAMES, "here", True)[3] is ALL_UNKNOWN
    # Every image having every label is the one reading of ids that is left.
    assert not are_multi_hot([RowLabels((0, 1, 2))], 3)
    assert present(name_numbers([RowLabels((0, 1, 2))], NAMES, "here", False)) == [NAMES]
    for label in (3, -1, 0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match=f"row 0: label id {label} is out of range; .* 0 to 2"):
            name_numbers([RowLabels((label,))], NAMES, "here", False)


@pytest.mark.parametrize(
    ("vectors", "num_names"),
    [([(1, 0), (0, 1)], 2), ([(0, 1), (1, 0), ()], 2), ([(True, False), (False, True)], 2), ([(1,), (0,)], 1)],
)
def test_vectors_of_one_or_two_classes_are_no_lists_of_ids(vectors, num_names):
    assert are_multi_hot([RowLabels(vector) for vector in vectors], num_names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "a"], "two labels named 'a'"),
        (["a", " "], "the name of label 1 is empty"),
        ([], "no label names"),
    ],
)
def test_label_names_must_be_distinct_and_there(names, message):
    with pytest.raises(ValueError, match=message):
        check_label_names(names, "here")


def test_contradicting_options_are_refused():
    with pytest.raises(ValueError, match="exclude each other"):
        LabelOptions(labels_column="a", label_columns=("b",))
    with pytest.raises(ValueError, match="empty_cells must be one of error, unknown, negative, got 'none'"):
        LabelOptions(empty_cells="none")
