import ast
import graphlib
import subprocess
import sys
import zipfile
from pathlib import Path

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


def test_the_wheel_holds_the_package_the_recipes_and_nothing_else(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [wheel] = tmp_path.iterdir()
    assert wheel.name == f"cssfe-{modeling_cssfe.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        assert "cssfe = modeling_cssfe.cli:main" in opened.read(entry_points).decode()
    assert {name.split("/")[0] for name in names} == {
        "modeling_cssfe",
        f"cssfe-{modeling_cssfe.__version__}.dist-info",
    }
    package = [file for file in (ROOT / "modeling_cssfe").rglob("*") if file.is_file() and file.suffix != ".pyc"]
    wanted = {file.relative_to(ROOT).as_posix() for file in package}
    recipes = {f"modeling_cssfe/recipes/files/{file.name}" for file in (ROOT / "train" / "recipes").glob("*.yaml")}
    assert len(recipes) > 20
    wanted |= recipes | {"modeling_cssfe/hub/template.md"}
    assert {name for name in names if name.startswith("modeling_cssfe/")} == wanted


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
