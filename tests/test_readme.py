import ast
import re
import shlex
from pathlib import Path

import pytest

from modeling_cssfe.cli import build_parser
from modeling_cssfe.training import list_recipes


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(line, comments=True)
    for language, text in BLOCKS
    if language == "bash"
    for line in text.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_exists_and_takes_these_arguments(command):
    if command[0] == "cssfe":
        options = build_parser().parse_args(command[1:])
        assert getattr(options, "recipe", "lt_digits") in list_recipes()
    elif command[:2] == ["accelerate", "launch"]:
        assert (ROOT / command[2]).is_file()
        build_parser().parse_args(["train", *command[3:]])
    elif command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    else:
        assert command[0] == "pip"


@pytest.mark.parametrize("code", [text for language, text in BLOCKS if language == "python"])
def test_python_snippets_compile_and_import_what_exists(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = __import__(node.module, fromlist=[alias.name for alias in node.names])
            assert all(hasattr(module, alias.name) for alias in node.names)


def test_every_file_and_folder_of_the_layout_exists():
    layout = next(text for language, text in BLOCKS if not language and text.startswith("modeling_cssfe/"))
    for name in re.findall(r"^([a-z_]+)/", layout, flags=re.MULTILINE):
        assert (ROOT / name).is_dir(), name


def test_links_lead_to_files():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
