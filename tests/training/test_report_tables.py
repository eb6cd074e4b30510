import io

import pytest
from rich.console import Console
from rich.table import Table

from modeling_cssfe.common.tables import show, text_table
from modeling_cssfe.metrics import long_tail_map
from modeling_cssfe.training.report import class_table, group_table


def printed(table):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_label_name_that_looks_like_markup_is_shown_as_it_is():
    names = ["[red]apple", "[/]", "pear"]
    scores = [[0.9, 0.2, 0.1], [0.2, 0.7, 0.3], [0.1, 0.3, 0.8]]
    result = long_tail_map(scores, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], [200, 30, 4], label_names=names)
    text = printed(class_table(result, "classes"))
    assert all(name in text for name in names)
    assert "[bold]run" in printed(group_table({"[bold]run": result}, "groups"))


def test_a_title_a_head_or_a_cell_that_looks_like_markup_is_text():
    table = text_table("runs/[seed1] [/x]", "[bold]head", "[/]", numbers_from=1)
    table.add_row("[/x]", 3)
    text = printed(table)
    assert all(part in text for part in ("runs/[seed1] [/x]", "[bold]head", "[/]", "[/x]", "3"))


def test_a_reader_who_has_left_is_the_callers_affair(monkeypatch):
    class Pipe(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("sys.stdout", Pipe())
    with pytest.raises(BrokenPipeError):  # rich itself would raise SystemExit(1), after a run that went well
        show(Table("column"))
