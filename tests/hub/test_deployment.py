"""The files of an Inference Endpoint and of a Space, run as their hosts run them."""

import ast
import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny_runs import make_scene

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.hub.deployment import FILES, PACKAGE, write_endpoint, write_space


try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = Path(__file__).parents[2]
THRESHOLDS = [0.2, 0.9, 0.4]
PAIRS = [("head", 1.5, 0.1), ("medium", 2.0, -0.2), ("tail", 0.7, 0.0)]
CALIBRATION = {group: {"temperature": t, "bias": b} for group, t, b in PAIRS}

# What the host does: the folder on the path, the module from its file, the class with the folder. No package.
HOST = """
import base64, importlib.util, io, json, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        hidden = name.partition(".")[0] == "modeling_cssfe"
        return None if hidden else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
folder, requests = sys.argv[1:]
sys.path.insert(0, folder)
spec = importlib.util.spec_from_file_location("handler", folder + "/handler.py")
handler = importlib.util.module_from_spec(spec)
sys.modules["handler"] = handler
spec.loader.exec_module(handler)
handler.MAX_BYTES = 300_000
handler.MAX_PIXELS = 250_000
endpoint = handler.EndpointHandler(folder)

from PIL import Image

def content(item):
    if isinstance(item, list):
        return [content(one) for one in item]
    if isinstance(item, dict):
        file = base64.b64decode(item["file"])
        return Image.open(io.BytesIO(file)) if item["as"] == "pillow" else file
    return item

answers = {}
for name, request in json.load(open(requests)).items():
    if isinstance(request, dict) and "inputs" in request:
        request["inputs"] = content(request["inputs"])
    try:
        answers[name] = endpoint(request)
    except ValueError as error:
        answers[name] = {"error": str(error)}
print(json.dumps({"answers": answers, "loaded": "modeling_cssfe" in sys.modules}))
"""


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def text(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(7)
    return [make_scene(rng, names) for names in (["red"], ["green", "blue"], [])]


@pytest.fixture(scope="module")
def model_folder(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("endpoint")
    model = CSSFEForImageClassification.from_pretrained(tiny_run)
    model.config.thresholds = THRESHOLDS
    model.config.calibration = CALIBRATION
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def expected(model_folder, scenes):
    """Names, logits and calibrated probabilities of the scenes, by the package."""
    model = CSSFEForImageClassification.from_pretrained(model_folder).eval()
    pixels = CSSFEImageProcessor.from_pretrained(model_folder)(scenes, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = model(pixels).logits.double().numpy()
    return model.config, logits


@pytest.fixture(scope="module")
def answers(model_folder, scenes, tmp_path_factory):
    """Answers of the handler to all requests, in one process; importing torch and transformers takes its seconds."""
    work = tmp_path_factory.mktemp("host")
    written = write_endpoint(model_folder)
    assert [file.name for file in written] == ["handler.py", "image_decoding.py", "requirements.txt"]
    first = png(scenes[0])
    wide = Image.new("RGB", (600, 600))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    requests = {
        "base64": {"inputs": text(first)},
        "data uri": {"inputs": "data:image/png;base64," + text(first)},
        "bytes": {"inputs": {"file": text(first), "as": "bytes"}},
        "pillow": {"inputs": {"file": text(first), "as": "pillow"}},
        "batch": {"inputs": [text(png(scene)) for scene in scenes] * 4},
        "top_k": {"inputs": text(first), "parameters": {"top_k": 2}},
        "one threshold": {"inputs": text(first), "parameters": {"thresholds": 0.0}},
        "list": {"inputs": text(first), "parameters": {"thresholds": [1.0, 0.0, 1.0]}},
        "named": {"inputs": text(first), "parameters": {"thresholds": {"blue": 0}}},
        "no inputs": {"image": text(first)},
        "url": {"inputs": "https://example.com/a.png"},
        "file url": {"inputs": "file:///etc/passwd"},
        "path": {"inputs": "/etc/passwd"},
        "not base64": {"inputs": "photograph.jpg"},
        "no image": {"inputs": text(b"this is text")},
        "truncated": {"inputs": text(first[: len(first) // 2])},
        "truncated pillow": {"inputs": {"file": text(first[: len(first) // 2]), "as": "pillow"}},
        "number": {"inputs": 3},
        "many": {"inputs": [text(first)] * 33},
        "none": {"inputs": []},
        "many pixels": {"inputs": text(png(wide))},
        "pillow with many pixels": {"inputs": {"file": text(png(wide)), "as": "pillow"}},
        "many bytes": {"inputs": text(png(noise))},
        "bad top_k": {"inputs": text(first), "parameters": {"top_k": 0}},
        "bad threshold": {"inputs": text(first), "parameters": {"thresholds": 2}},
        "short thresholds": {"inputs": text(first), "parameters": {"thresholds": [0.5]}},
        "unknown label": {"inputs": text(first), "parameters": {"thresholds": {"purple": 0.5}}},
        "unknown parameter": {"inputs": text(first), "parameters": {"topk": 1}},
        "not an object": {"inputs": text(first), "parameters": [1]},
        "no request": text(first),
    }
    (work / "requests.json").write_text(json.dumps(requests))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", HOST, str(model_folder), str(work / "requests.json")],
        cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert not told["loaded"]
    return told["answers"]


in_a_process = pytest.mark.slow  # the fixture's process imports torch and transformers, once


def wanted(expected, index, thresholds=THRESHOLDS):
    """The answer by the formulas: sigmoid, threshold, and sigmoid(logit / temperature + bias), in float64."""
    config, logits = expected
    entries = []
    for name, group, logit, limit in zip(config.label_names, config.groups, logits[index], thresholds, strict=True):
        score = 1 / (1 + np.exp(-logit))
        temperature, bias = CALIBRATION[group]["temperature"], CALIBRATION[group]["bias"]
        probability = 1 / (1 + np.exp(-(logit / temperature + bias)))
        entries.append(
            {
                "label": name,
                "score": pytest.approx(score, abs=1e-5),
                "above_threshold": bool(score >= limit),
                "probability": pytest.approx(probability, abs=1e-5),
            }
        )
    order = np.argsort(-logits[index], kind="stable")
    return [entries[n] for n in order]


@in_a_process
@pytest.mark.parametrize("form", ["base64", "data uri", "bytes", "pillow"])
def test_an_image_in_any_form_gets_its_labels(answers, expected, form):
    assert answers[form] == wanted(expected, 0)


@in_a_process
def test_a_list_of_images_gets_a_list_of_answers_in_their_order(answers, expected):
    assert answers["batch"] == [wanted(expected, index) for index in (0, 1, 2)] * 4


@in_a_process
def test_top_k_and_thresholds_can_be_asked_for(answers, expected):
    assert answers["top_k"] == wanted(expected, 0)[:2]
    assert answers["one threshold"] == wanted(expected, 0, [0.0] * 3)
    assert answers["list"] == wanted(expected, 0, [1.0, 0.0, 1.0])
    assert answers["named"] == wanted(expected, 0, [0.0, *THRESHOLDS[1:]])


@in_a_process
@pytest.mark.parametrize(
    ("request_name", "message"),
    [
        ("no inputs", "no 'inputs'"),
        ("url", "is an address"),
        ("file url", "is an address"),
        ("path", "image 1"),
        ("not base64", "is no base64 text"),
        ("no image", "image 1"),
        ("truncated", "image 1"),
        ("truncated pillow", "image 1 cannot be decoded"),
        ("number", "is a int"),
        ("many", "1 to 32"),
        ("none", "1 to 32"),
        ("many pixels", "600 x 600 pixels"),
        ("pillow with many pixels", "600 x 600 pixels"),
        ("many bytes", "larger than"),
        ("bad top_k", "'top_k' is 0"),
        ("bad threshold", "'thresholds' holds 2"),
        ("short thresholds", "1 entries for 3 labels"),
        ("unknown label", "'purple'"),
        ("unknown parameter", "'topk'"),
        ("not an object", "must be an object"),
        ("no request", "no 'inputs'"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(answers, request_name, message):
    told = answers[request_name]["error"]
    assert message in told
    assert "\n" not in told


def test_the_handler_imports_nothing_that_is_not_beside_it_or_in_its_requirements():
    names = {line.partition(">")[0] for line in (FILES / "endpoint_requirements.txt").read_text().split()}
    imported_as = {"pillow": "PIL"}
    allowed = {imported_as.get(name, name) for name in names} | set(sys.stdlib_module_names) | {"image_decoding"}
    allowed.add("tqdm")  # which transformers itself requires
    for file in (FILES / "handler.py", PACKAGE / "data" / "decoding.py"):
        tree = ast.parse(file.read_text())
        typing_only = {
            node for block in tree.body if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
            for node in block.body
        }  # fmt: skip
        for node in ast.walk(tree):
            if node in typing_only:
                continue
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, ast.unparse(node)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, ast.unparse(node)
                assert node.module.partition(".")[0] in allowed, ast.unparse(node)


@pytest.fixture(scope="module")
def space(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("space")
    CSSFEForImageClassification.from_pretrained(tiny_run).save_pretrained(folder / "model")
    write_space(folder, CSSFEConfig.from_pretrained(tiny_run), "Coloured squares: mine")
    return folder


def test_a_space_has_the_header_that_the_hub_reads(space):
    _, header, body = (space / "README.md").read_text().split("---\n", 2)
    read = yaml.safe_load(header)
    assert read["sdk"] == "gradio"
    assert (space / read["app_file"]).is_file()
    assert read["title"] == "Coloured squares mine"  # a colon would end the YAML value
    assert len(read["short_description"]) <= 60  # the Hub's limit
    assert "of 3 labels" in body
    try:
        import gradio
    except ImportError:
        assert "sdk_version" not in read
    else:
        assert read["sdk_version"] == gradio.__version__


def test_the_title_of_a_space_is_text_whatever_yaml_would_make_of_it(space, tiny_run):
    for title in ("2012", "yes", "- new", ", then"):
        write_space(space, CSSFEConfig.from_pretrained(tiny_run), title)
        header = (space / "README.md").read_text().split("---\n", 2)[1]
        assert yaml.safe_load(header)["title"] == title
    write_space(space, CSSFEConfig.from_pretrained(tiny_run), "Coloured squares: mine")


@pytest.mark.skipif(tomllib is None, reason="tomllib came with Python 3.11")
def test_a_space_requires_what_the_package_requires(space):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set((space / "requirements.txt").read_text().split()) == set(project["project"]["dependencies"])
    assert set((FILES / "endpoint_requirements.txt").read_text().split()) <= set(project["project"]["dependencies"])


def test_a_space_carries_the_source_of_the_package(space):
    sources = {file.relative_to(PACKAGE) for file in PACKAGE.rglob("*.py") if "__pycache__" not in file.parts}
    there = {file.relative_to(space / "modeling_cssfe") for file in (space / "modeling_cssfe").rglob("*.py")}
    assert there == sources
    assert not list(space.rglob("__pycache__"))


@pytest.mark.slow  # a fresh process imports torch and transformers
def test_the_app_gives_the_model_beside_it_to_the_package_beside_it(space, tmp_path):
    folder = shutil.copytree(space, tmp_path / "space")
    shutil.rmtree(folder / "modeling_cssfe" / "demo", ignore_errors=True)
    (folder / "modeling_cssfe" / "demo.py").write_text(
        "from .common.model_loading import load_trained_model\n"
        "def build_demo(folder):\n    return load_trained_model(folder)[0].config.label_names\n"
    )
    told = run_app(folder, "print(' '.join(app.demo), modeling_cssfe.__file__)", tmp_path)
    assert told[-4:] == ["blue", "green", "red", str(folder / "modeling_cssfe" / "__init__.py")]


def run_app(space: Path, code: str, work: Path) -> list[str]:
    """Import a Space's `app.py` as its host does, where the package is found nowhere else, and run `code`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import app, modeling_cssfe\n{code}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(space)],
        cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


def test_the_page_of_a_published_model_shows_the_card_and_its_pictures(hub, tiny_run, tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="the page needs gradio")
    import huggingface_hub
    from loopback import USER

    from modeling_cssfe.demo import build_demo

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "run"
    CSSFEForImageClassification.from_pretrained(tiny_run).save_pretrained(folder)
    CSSFEImageProcessor.from_pretrained(tiny_run).save_pretrained(folder)
    (folder / "README.md").write_text("# Published\n\n![a plot](plot.png)\n")
    Image.new("RGB", (2, 2)).save(folder / "plot.png")
    huggingface_hub.HfApi().create_repo(f"{USER}/shown")
    huggingface_hub.HfApi().upload_folder(repo_id=f"{USER}/shown", folder_path=folder)
    page = build_demo(f"{USER}/shown")
    assert page.title == "CSSFE: shown"
    html = " ".join(str(block.value) for block in page.blocks.values() if hasattr(block, "value"))
    assert "<h1>Published</h1>" in html
    assert base64.b64encode((folder / "plot.png").read_bytes()).decode() in html


def test_a_space_needs_a_model_and_a_title(tmp_path, tiny_run):
    config = CSSFEConfig.from_pretrained(tiny_run)
    with pytest.raises(ValueError, match="holds no model"):
        write_space(tmp_path, config, "A title")
    CSSFEForImageClassification.from_pretrained(tiny_run).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="one line of text"):
        write_space(tmp_path, config, "two\nlines")
