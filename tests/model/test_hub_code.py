# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A saved model carries its own code, which runs where the package is not installed."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import modeling_cssfe
from modeling_cssfe import CSSFEImageProcessor

from .helpers import images_for, small_model


PACKAGE = Path(modeling_cssfe.__file__).parent
HUB_FILES = sorted(file.name for file in PACKAGE.glob("*_cssfe.py"))
# Beside the standard library.
ALLOWED = {"torch", "transformers", "timm"}
ALLOWED_FROM = {"huggingface_hub.dataclasses": {"strict"}}

# The package may be installed where the child looks: no finder of the child finds it.
CHILD = """
import json, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "modeling_cssfe" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import socket

def refuse(*arguments, **keywords):
    raise OSError("no network here")

socket.socket.connect = refuse
socket.getaddrinfo = refuse

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

folder, work = sys.argv[1], sys.argv[2]
torch.set_num_threads(1)
inputs = load_file(work + "/inputs.safetensors")
model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
with torch.no_grad():
    out = model(inputs["pixel_values"], labels=inputs["labels"])
    bare = AutoModel.from_pretrained(folder, trust_remote_code=True)(inputs["pixel_values"])
processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
image = Image.open(work + "/image.png")
processed = processor(image, return_tensors="pt")["pixel_values"]
classify = pipeline("image-classification", model=folder, trust_remote_code=True)
scores = classify(image, top_k=100)
again = pipeline("image-classification", model=model, image_processor=processor)(image, top_k=100)
tensors = {"logits": out.logits, "loss": out.loss, "pixel_values": processed, "class_tokens": bare.class_tokens}
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, work + "/outputs.safetensors")
model.save_pretrained(work + "/resaved")
report = {
    "model": type(model).__name__,
    "module": type(model).__module__,
    "processor": type(processor).__name__,
    "config": type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__,
    "scores": scores,
    "again": again,
    "package_loaded": any(name.partition(".")[0] == "modeling_cssfe" for name in sys.modules),
}
try:
    model.config.loss = "db_focal"
    model.criterion = None
    model.loss_function
except ValueError as error:
    report["other_loss"] = str(error)
print(json.dumps(report))
"""


def run_without_the_package(folder: Path, work: Path) -> dict:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {"HF_HOME": str(work / "hf_home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-I", "-c", CHILD, str(folder), str(work)],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub_run(tmp_path_factory):
    """Everything that a process without the package sees of a saved model; starting it takes ten seconds."""
    import numpy as np
    from PIL import Image
    from safetensors.torch import load_file, save_file

    folder, work = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("work")
    names = ["person", "dining table", "dog", "cow", "sheep"]
    model = small_model(class_counts=[775, 240, 48, 4, 5], id2label=dict(enumerate(names)))
    model.save_pretrained(folder)
    labels = torch.tensor([[1, 0, 0, 1, -1], [0, 1, 0, 0, 1]])
    inputs = {"pixel_values": images_for(model), "labels": labels}
    save_file(inputs, work / "inputs.safetensors")
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(work / "image.png")
    report = run_without_the_package(folder, work)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        expected = model(inputs["pixel_values"], labels=labels)
        class_tokens = model.cssfe(inputs["pixel_values"]).class_tokens
        image = Image.open(work / "image.png")
        pixel_values = CSSFEImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
        probabilities = model(pixel_values).logits[0].sigmoid()
    torch.set_num_threads(threads)
    return {
        "report": report,
        "outputs": load_file(work / "outputs.safetensors"),
        "expected": expected,
        "class_tokens": class_tokens,
        "pixel_values": pixel_values,
        "scores": dict(zip(names, probabilities.tolist(), strict=True)),
        "folder": folder,
        "work": work,
    }


def test_auto_classes_load_the_code_beside_the_weights(hub_run):
    report = hub_run["report"]
    assert report["model"] == "CSSFEForImageClassification"
    assert report["config"] == "CSSFEConfig"
    assert report["processor"] == "CSSFEImageProcessor"
    assert report["module"].startswith("transformers_modules.")
    assert not report["package_loaded"]


def test_logits_and_loss_are_those_of_the_package_to_the_bit(hub_run):
    assert torch.equal(hub_run["outputs"]["logits"], hub_run["expected"].logits)
    assert torch.equal(hub_run["outputs"]["loss"], hub_run["expected"].loss)


def test_the_image_processor_gives_the_same_pixels(hub_run):
    assert torch.equal(hub_run["outputs"]["pixel_values"], hub_run["pixel_values"])


def test_the_pipeline_gives_sigmoid_scores_of_all_classes_by_name(hub_run):
    for scores in (hub_run["report"]["scores"], hub_run["report"]["again"]):
        assert {entry["label"]: pytest.approx(entry["score"], abs=1e-6) for entry in scores} == hub_run["scores"]
        assert [entry["score"] for entry in scores] == sorted((entry["score"] for entry in scores), reverse=True)
    assert abs(sum(hub_run["scores"].values()) - 1) > 0.05  # a softmax over classes would sum to one


def test_the_network_without_classifier_loads_too(hub_run):
    assert torch.equal(hub_run["outputs"]["class_tokens"], hub_run["class_tokens"])


def test_a_loss_that_does_not_travel_says_what_to_install(hub_run):
    message = hub_run["report"]["other_loss"]
    assert "'db_focal'" in message
    assert "pip install cssfe" in message
    assert "\n" not in message


def test_what_is_saved_names_its_classes_and_carries_every_file(hub_run):
    config = json.loads((hub_run["folder"] / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "configuration_cssfe.CSSFEConfig",
        "AutoModel": "modeling_cssfe.CSSFEModel",
        "AutoModelForImageClassification": "modeling_cssfe.CSSFEForImageClassification",
    }
    processor = json.loads((hub_run["folder"] / "preprocessor_config.json").read_text())
    assert processor["auto_map"] == {"AutoImageProcessor": "image_processing_cssfe.CSSFEImageProcessor"}
    assert sorted(file.name for file in hub_run["folder"].glob("*.py")) == HUB_FILES
    for name in HUB_FILES:
        assert (hub_run["folder"] / name).read_bytes() == (PACKAGE / name).read_bytes()


def test_a_model_saved_again_without_the_package_still_carries_its_code(hub_run):
    resaved = hub_run["work"] / "resaved"
    assert sorted(file.name for file in resaved.glob("*.py")) == HUB_FILES
    for name in ("config.json", "model.safetensors"):
        assert (resaved / name).exists()


def test_the_hub_files_are_those_that_travel():
    assert HUB_FILES == [
        "backbone_cssfe.py",
        "checks_cssfe.py",
        "configuration_cssfe.py",
        "discriminant_cssfe.py",
        "image_processing_cssfe.py",
        "layers_cssfe.py",
        "loss_cssfe.py",
        "modeling_cssfe.py",
        "parts_cssfe.py",
        "presets_cssfe.py",
    ]


@pytest.mark.parametrize("name", HUB_FILES)
def test_a_hub_file_imports_only_what_may_be_on_another_machine(name):
    standard = set(sys.stdlib_module_names)
    siblings = {file.removesuffix(".py") for file in HUB_FILES}
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                assert alias.name.partition(".")[0] in ALLOWED | standard, f"{name} imports {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.level:
            # `from .x import y` is the one relative form that transformers' copying understands.
            assert node.level == 1, f"line {node.lineno}"
            assert node.module in siblings, f"line {node.lineno}: from .{node.module}"
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            allowed = node.module.partition(".")[0] in ALLOWED | standard
            allowed |= {alias.name for alias in node.names} <= ALLOWED_FROM.get(node.module, set())
            assert allowed, f"{name} imports from {node.module}"


@pytest.mark.parametrize("name", HUB_FILES)
def test_a_hub_file_reaches_the_package_only_after_asking_whether_it_is_there(name):
    """The one way in is `_package_module`, behind `find_spec`; a plain import of the package would break copies."""
    tree = ast.parse((PACKAGE / name).read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
            owners = [
                owner for owner in ast.walk(tree) if isinstance(owner, ast.FunctionDef) and node in ast.walk(owner)
            ]
            assert [owner.name for owner in owners] == ["_package_module"]
            assert "find_spec" in ast.unparse(owners[0])
