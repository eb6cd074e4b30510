import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import modeling_cssfe


try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).parents[1]


def test_importing_the_package_loads_nothing_that_is_optional_for_prediction():
    # A process of its own: this one has imported nearly everything. Importing torch and transformers takes its seconds.
    # What the Auto classes load by themselves is not ours: in transformers 5.20 that is scikit-learn, with pandas.
    code = (
        "import sys; from transformers import AutoModelForImageClassification\n"
        "before = set(sys.modules); import modeling_cssfe\n"
        "print([name for name in ('datasets', 'evaluate', 'matplotlib', 'sklearn', 'pandas', 'omegaconf')"
        " if name in set(sys.modules) - before])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def imported_packages() -> dict[str, set[str]]:
    """Which of the package's folders each of them imports, anywhere in its files."""
    package = ROOT / "modeling_cssfe"
    found: dict[str, set[str]] = {}
    for file in package.glob("*/**/*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        own = found.setdefault(parts[1], set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = parts[: len(parts) - node.level] if node.level else ()
                target = (*base, *(node.module or "").split("."))
                names = [target[1]] if target[1:] and target[1] else [alias.name for alias in node.names]
                own.update(name for name in names if target[0] == package.name and (package / name).is_dir())
        own.discard(parts[1])
    return found


def test_everything_imports_inward():
    imported = imported_packages()
    assert {"data", "evaluation", "recipes"} <= imported["training"]
    # Raises CycleError, with the cycle, where two folders need each other.
    order = list(graphlib.TopologicalSorter(imported).static_order())
    for inner in ("common", "losses", "samplers", "metrics", "data", "recipes", "evaluation"):
        assert order.index(inner) < order.index("training")
    assert not any("commands" in names for names in imported.values())


def test_public_names_exist():
    for name in modeling_cssfe.__all__:
        assert getattr(modeling_cssfe, name) is not None


@pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11")
def test_the_wheel_holds_the_package_and_nothing_else():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["name"] == "cssfe"
    assert project["project"]["scripts"] == {"cssfe": "modeling_cssfe.cli:main"}
    assert project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["modeling_cssfe"]


def test_constraints_pin_by_name_and_number_only():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        assert "==" in line
        assert "://" not in line
        assert "@" not in line


def test_citation_names_paper_and_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == modeling_cssfe.__version__
    assert "Long-Tailed Multi-Label" in citation["preferred-citation"]["title"]
    assert citation["preferred-citation"]["year"] == 2025


def test_the_version_has_a_place_in_the_changelog():
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_typed_marker_is_there():
    assert (ROOT / "modeling_cssfe" / "py.typed").is_file()
