"""One process pushes to a Hub on this machine, another one without the package loads from it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from loopback import TOKEN, USER, LoopbackHub
from safetensors.torch import load_file
from tiny_runs import make_scene

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor


ROOT = Path(__file__).parents[2]

PUBLISHER = """
import json, sys
from modeling_cssfe.cli import main
from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.data import load_images

run, data, work, name = sys.argv[1:]
assert main(["push", run, name, "--dataset", data]) == 0
model = CSSFEForImageClassification.from_pretrained(run)
processor = CSSFEImageProcessor.from_pretrained(run)
model.push_to_hub("native", private=True)
processor.push_to_hub("processor")
for parameter in model.parameters():
    parameter.data.mul_(0.5)
model.save_pretrained(work + "/halved")
assert main(["push", work + "/halved", name]) == 0
back = load_images(name)
rows = {
    split: [
        [row["image_id"], table.features["labels"].feature.int2str(row["labels"]), len(row["image"]["bytes"])]
        for row in table
    ]
    for split, table in back.items()
}
print(json.dumps(rows))
"""

STRANGER = """
import json, sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "modeling_cssfe" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]

import torch
from huggingface_hub import HfApi, snapshot_download
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

name, native, processor_name, work = sys.argv[1:]
torch.set_num_threads(1)
pixels = load_file(work + "/inputs.safetensors")["pixel_values"]
commits = [commit.commit_id for commit in HfApi().list_repo_commits(name)]
outputs = {}
for key, repo, revision in (
    ("latest", name, None), ("first", name, commits[1]), ("second", name, commits[0]), ("native", native, None)
):
    model = AutoModelForImageClassification.from_pretrained(repo, revision=revision, trust_remote_code=True).eval()
    with torch.no_grad():
        outputs[key] = model(pixels).logits.contiguous()
save_file(outputs, work + "/outputs.safetensors")
image = Image.open(work + "/scene.png")
processor = AutoImageProcessor.from_pretrained(processor_name, trust_remote_code=True)
scores = pipeline("image-classification", model=name, revision=commits[1], trust_remote_code=True)(image, top_k=99)
folder = snapshot_download(name, revision=commits[1])
offline = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True, local_files_only=True)
with torch.no_grad():
    same = torch.equal(offline.eval()(pixels).logits, outputs["first"])
print(json.dumps({"scores": scores, "snapshot_is_the_first": same, "processor": type(processor).__name__,
                  "commits": len(commits), "loaded": "modeling_cssfe" in sys.modules}))
"""


def run_process(code: str, *arguments, home: Path, endpoint: str, isolated: bool) -> tuple[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    environment |= {
        "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HOME": str(home),
        "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if not isolated:
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *(["-I"] if isolated else []), "-c", code, *map(str, arguments)],
        cwd=home, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def published(tiny_run, tiny_data, tmp_path_factory):
    """Everything pushed by one process and loaded by another; both import torch and transformers, as do two checks."""
    from safetensors.torch import save_file

    work = tmp_path_factory.mktemp("published")
    homes = [work / "publisher", work / "stranger"]
    for home in homes:
        home.mkdir()
    make_scene(np.random.default_rng(5), ["green"]).save(work / "scene.png")
    save_file({"pixel_values": torch.rand(2, 3, 64, 64)}, work / "inputs.safetensors")
    with LoopbackHub() as server:
        name = f"{USER}/tiny"
        out, err = run_process(PUBLISHER, tiny_run, tiny_data, work, name, home=homes[0], endpoint=server.endpoint,
                               isolated=False)  # fmt: skip
        told, noise = run_process(STRANGER, name, f"{USER}/native", f"{USER}/processor", work, home=homes[1],
                                  endpoint=server.endpoint, isolated=True)  # fmt: skip
    return {
        "hub": server,
        "name": name,
        "work": work,
        "rows": json.loads(out.splitlines()[-1]),
        "said": out + err + told + noise,
        "report": json.loads(told.splitlines()[-1]),
        "outputs": load_file(work / "outputs.safetensors"),
    }


pushed_by_processes = pytest.mark.slow  # the fixture's processes take half a minute or more, once


@pushed_by_processes
def test_a_stranger_gets_the_same_logits_at_each_revision(published, tiny_run):
    assert not published["report"]["loaded"]
    assert published["report"]["commits"] == 3
    pixels = load_file(published["work"] / "inputs.safetensors")["pixel_values"]
    for folder, keys in ((tiny_run, ["first", "native"]), (published["work"] / "halved", ["second", "latest"])):
        model = CSSFEForImageClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            expected = model(pixels).logits
        for key in keys:
            assert torch.equal(published["outputs"][key], expected), key
    assert not torch.equal(published["outputs"]["first"], published["outputs"]["second"])
    assert published["report"]["snapshot_is_the_first"]


@pushed_by_processes
def test_the_pipeline_answers_from_the_hub(published, tiny_run):
    from PIL import Image

    model = CSSFEForImageClassification.from_pretrained(tiny_run).eval()
    processor = CSSFEImageProcessor.from_pretrained(tiny_run)
    with torch.no_grad():
        pixels = processor(Image.open(published["work"] / "scene.png"), return_tensors="pt")["pixel_values"]
        wanted = dict(zip(model.config.label_names, model(pixels).logits[0].sigmoid().tolist(), strict=True))
    given = {entry["label"]: entry["score"] for entry in published["report"]["scores"]}
    assert given == {label: pytest.approx(score, abs=1e-6) for label, score in wanted.items()}


@pushed_by_processes
def test_the_methods_of_transformers_take_the_code_along(published):
    for repo, own in (("native", "modeling_cssfe.py"), ("processor", "image_processing_cssfe.py")):
        assert own in published["hub"].files(f"{USER}/{repo}")
    assert published["hub"].repositories["model", f"{USER}/native"].private
    assert published["report"]["processor"] == "CSSFEImageProcessor"


@pushed_by_processes
def test_the_data_set_comes_back_as_it_was(published, tiny_data):
    from modeling_cssfe.data import load_images

    assert published["hub"].repositories["dataset", published["name"]].private
    for split, table in load_images(tiny_data).items():
        names = table.features["labels"].feature
        assert published["rows"][split] == [
            [row["image_id"], names.int2str(row["labels"]), len(row["image"]["bytes"])] for row in table
        ]
    files = published["hub"].files(published["name"], kind="dataset")
    assert any(name.endswith(".parquet") for name in files)
    for name, content in files.items():
        assert str(tiny_data).encode() not in content, name


@pushed_by_processes
def test_the_token_is_neither_said_nor_written(published):
    assert TOKEN not in published["said"]
    assert re.search(r"someone/tiny: .* private, commit", published["said"])
    looked_at = 0
    for file in published["work"].rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file
            looked_at += 1
    assert looked_at > 20
    for (kind, repo), repository in published["hub"].repositories.items():
        for files in repository.commits.values():
            for name, content in files.items():
                assert TOKEN.encode() not in content, (kind, repo, name)
