"""Publishing against a Hub on this machine."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from loopback import TOKEN, USER, LoopbackHub
from safetensors.torch import load, load_file
from tiny_runs import make_scene

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.cli import main
from modeling_cssfe.hub import publish
from modeling_cssfe.hub.errors import PublishingError
from modeling_cssfe.hub.publish import push_data, push_run
from modeling_cssfe.hub.round_trip import RoundTripError, check_round_trip
from modeling_cssfe.hub.staging import linked_pictures, without_paths


ROOT = Path(__file__).parents[2]
NAME = f"{USER}/model"
CODE = ["backbone", "configuration", "image_processing", "layers", "loss", "modeling"]
SENT = {
    ".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json",
    *(f"{name}_cssfe.py" for name in CODE),
}  # fmt: skip


@pytest.fixture
def unchecked(monkeypatch):
    """The round trip takes a fresh process, and has tests of its own."""
    monkeypatch.setattr(publish, "check_round_trip", lambda *arguments: None)


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def only_line(text: str) -> str:
    lines = [line for line in text.splitlines() if "error:" in line]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert TOKEN not in text
    return lines[0]


def test_what_belongs_to_the_model_is_sent_in_one_private_commit_and_nothing_else(hub, unchecked, run, capsys):
    (run / "notes.txt").write_text("my own")
    assert main(["push", str(run), "model"]) == 0
    shown = capsys.readouterr().out
    repo = hub.repositories["model", NAME]
    assert repo.private
    assert len(repo.commits) == 2  # the Hub's own first one, and ours
    files = hub.files(NAME)
    assert set(files) == SENT
    for name, tensor in load_file(run / "model.safetensors").items():
        assert torch.equal(load(files["model.safetensors"])[name], tensor)
    assert f"{hub.endpoint}/{NAME}" in shown
    assert "private" in shown
    others = sorted(f"{path.name}/" if path.is_dir() else path.name for path in run.iterdir() if path.name not in SENT)
    assert {"checkpoints/", "log.jsonl", "notes.txt"} <= set(others)
    assert f"not sent: {', '.join(others)}\n" in shown
    assert TOKEN not in shown


def test_the_card_names_the_repository_and_carries_the_results(hub, unchecked, run):
    push_run(run, NAME)
    card = ModelCard(hub.files(NAME)["README.md"].decode())
    assert f'model="{NAME}"' in card.text
    results = json.loads((run / "results.json").read_text())
    shown = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert shown["mAP total"] == pytest.approx(results["test"]["map_total"], abs=5e-5)
    assert card.data.pipeline_tag == "image-classification"


def test_a_space_is_one_repository_with_page_package_and_model(hub, unchecked, tiny_run, capsys):
    HfApi().create_repo(f"{USER}/page", repo_type="space", space_sdk="gradio", private=True)
    HfApi().upload_file(
        repo_id=f"{USER}/page", repo_type="space", path_in_repo="modeling_cssfe/gone.py", path_or_fileobj=b"# older"
    )
    assert main(["push", str(tiny_run), "page", "--space"]) == 0
    assert f"{hub.endpoint}/spaces/{USER}/page" in capsys.readouterr().out
    files = hub.files(f"{USER}/page", kind="space")
    model = {name.removeprefix("model/") for name in files if name.startswith("model/")}
    assert model == SENT - {".gitattributes"}
    outside = {name for name in files if not name.startswith(("model/", "modeling_cssfe/"))}
    assert outside == {".gitattributes", "README.md", "app.py", "requirements.txt"}
    assert {"modeling_cssfe/cli.py", "modeling_cssfe/demo/page.py", "modeling_cssfe/demo/page.css"} <= set(files)
    assert "modeling_cssfe/gone.py" not in files
    for name, content in files.items():
        assert str(tiny_run).encode() not in content, name


@pytest.mark.parametrize("fault", ["drop", 403])
def test_a_refused_data_set_leaves_the_remote_as_it_was(hub, tiny_data, monkeypatch, fault):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
    hub.faults["commit"] = fault
    with pytest.raises(PublishingError) as caught:
        push_data(tiny_data, "squares")
    assert "\n" not in str(caught.value)
    assert hub.state() == {}
    hub.faults.clear()
    done = push_data(tiny_data, "squares")
    assert hub.state() == {("dataset", f"{USER}/squares"): ({"main": done.commit}, True)}
    other = push_data(tiny_data, "squares", revision="second")
    assert hub.state()["dataset", f"{USER}/squares"][0] == {"main": done.commit, "second": other.commit}


def test_label_embeddings_say_where_they_come_from_and_thresholds_travel(hub, unchecked, run):
    config = json.loads((run / "config.json").read_text()) | {"thresholds": [0.1, 0.2, 0.3]}
    config["label_embedding_provenance"] |= {"source": "/home/me/secret/vectors.safetensors"}
    (run / "config.json").write_text(json.dumps(config))
    (run / "thresholds.json").write_text(json.dumps({"data": "/home/me/secret/set", "names": ["red"]}))
    push_run(run, NAME)
    sent = json.loads(hub.files(NAME)["config.json"])
    assert sent["thresholds"] == [0.1, 0.2, 0.3]
    assert sent["label_embedding_provenance"]["source"] == "vectors.safetensors"
    assert json.loads(hub.files(NAME)["thresholds.json"]) == {"data": "set", "names": ["red"]}


def test_no_path_of_this_machine_is_sent(hub, unchecked, run, tiny_data):
    assert str(tiny_data) in (run / "results.json").read_text()
    push_run(run, NAME, endpoint=True)
    assert set(hub.files(NAME)) == SENT | {"handler.py", "image_decoding.py", "requirements.txt"}
    for name, content in hub.files(NAME).items():
        for place in {str(tiny_data), str(run), str(Path.home()) + "/", str(ROOT), "/tmp/"}:
            assert place.encode() not in content, f"{name} names {place}"
    assert json.loads(hub.files(NAME)["results.json"])["recipe"]["data"] == tiny_data.name


def test_a_text_that_names_a_place_of_this_machine_stops_the_push(hub, unchecked, run):
    (run / "results.json").unlink()
    (run / "README.md").write_text(f"# Mine\n\nTrained in {run}/checkpoints.\n")
    with pytest.raises(ValueError, match=r"README\.md names .*checkpoints") as caught:
        push_run(run, NAME)
    assert "\n" not in str(caught.value)
    assert hub.state() == {}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/data/mine/set", "set"),
        ("~/set/", "set"),
        ("C:\\data\\set", "set"),
        ("../set", "set"),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ({"a": ["/x/y.npz", 3, None]}, {"a": ["y.npz", 3, None]}),
        ("a photograph of a /", "a photograph of a /"),
        ("/r/cats", "/r/cats"),  # a label name of the model
    ],
    ids=str,
)
def test_paths_become_names(value, expected):
    assert without_paths(value, ["/r/cats"]) == expected


def test_a_relative_path_that_exists_becomes_a_name(tmp_path, monkeypatch):
    (tmp_path / "data" / "set").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_paths("data/set") == "set"


def test_pictures_of_the_card_travel_with_it(hub, unchecked, run):
    (run / "images").mkdir()
    make_scene(np.random.default_rng(0), ["red"]).save(run / "images" / "cam.png")
    card = run / "README.md"
    links = '![CAM](images/cam.png) ![other](https://example.com/x.png) <img src="../out.png">'
    card.write_text(card.read_text() + links)
    assert linked_pictures(card, run) == [Path("images/cam.png")]
    push_run(run, NAME)
    files = hub.files(NAME)
    assert set(files) == SENT | {"images/cam.png"}
    assert files["images/cam.png"] == (run / "images" / "cam.png").read_bytes()
    assert f'model="{NAME}"'.encode() in files["README.md"]


def test_a_model_without_results_gets_a_card_that_says_so(hub, unchecked, tiny_run, tmp_path):
    CSSFEForImageClassification.from_pretrained(tiny_run).save_pretrained(tmp_path / "bare")
    push_run(tmp_path / "bare", NAME)
    assert set(hub.files(NAME)) == SENT - {"results.json"}
    assert "No results" in hub.files(NAME)["README.md"].decode()


def test_large_weights_are_sent_in_shards_that_a_later_push_replaces(hub, unchecked, run, tmp_path):
    push_run(run, NAME, max_shard_size="400KB")
    shards = sorted(name for name in hub.files(NAME) if name.endswith(".safetensors"))
    assert len(shards) > 1
    index = json.loads(hub.files(NAME)["model.safetensors.index.json"])["weight_map"]
    tensors = {name: load(hub.files(NAME)[shard])[name] for name, shard in index.items()}
    wanted = load_file(run / "model.safetensors")
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    push_run(run, NAME)
    assert set(hub.files(NAME)) == SENT


def test_a_branch_is_written_and_main_stays(hub, unchecked, run):
    push_run(run, NAME)
    before = hub.state()["model", NAME][0]["main"]
    done = push_run(run, NAME, revision="second", message="Another one")
    refs = hub.state()["model", NAME][0]
    assert refs == {"main": before, "second": done.commit}
    assert hub.repositories["model", NAME].titles[done.commit] == "Another one"


@pytest.mark.parametrize("visibility", [[], ["--private"]])
def test_a_new_repository_is_private_unless_public_is_asked_for(hub, unchecked, tiny_run, visibility):
    assert main(["push", str(tiny_run), "a", *visibility]) == 0
    assert main(["push", str(tiny_run), "b", "--public"]) == 0
    assert hub.repositories["model", f"{USER}/a"].private
    assert not hub.repositories["model", f"{USER}/b"].private


def test_an_existing_repository_keeps_its_visibility(hub, unchecked, tiny_run, capsys):
    HfApi().create_repo(NAME, private=False)
    assert main(["push", str(tiny_run), NAME]) == 0
    assert "public" in capsys.readouterr().out
    assert not hub.repositories["model", NAME].private
    assert main(["push", str(tiny_run), NAME, "--private"]) == 2
    assert "exists and is public" in only_line(capsys.readouterr().err)


FAULTS = [
    ("lfs", "drop", "connection to the Hub"),
    ("lfs", 403, "may not write"),
    ("lfs", 500, "the Hub failed (status 500)"),
    ("preupload", 401, "did not accept the token"),
    ("preupload", 503, "the Hub failed (status 503)"),
    ("commit", "drop", "connection to the Hub"),
    ("commit", 400, "refused the request"),
    ("commit", 403, "may not write"),
    ("commit", 412, "changed by somebody else"),
    ("commit", 429, "wait a few minutes"),
    ("commit", 502, "the Hub failed (status 502)"),
]


# Every fault on what there is most to clean up, and one before and one at the commit on the others.
CASES = [("new_repository", *fault) for fault in FAULTS]
CASES += [(there, *fault) for there in ("new_branch", "old_branch") for fault in (FAULTS[0], FAULTS[7])]


@pytest.mark.parametrize(
    ("there", "route", "fault", "message"), CASES, ids=[f"{there}-{route}-{fault}" for there, route, fault, _ in CASES]
)
def test_an_interrupted_or_refused_upload_leaves_the_remote_as_it_was(
    hub, unchecked, tiny_run, monkeypatch, capsys, there, route, fault, message
):
    if there != "new_repository":
        HfApi().create_repo(NAME)
        HfApi().upload_file(repo_id=NAME, path_in_repo="model.safetensors", path_or_fileobj=b"older weights")
    before = hub.state()
    hub.faults[route] = fault
    branch = ["--revision", "fresh"] if there == "new_branch" else []
    assert main(["push", str(tiny_run), NAME, *branch]) == 1
    assert message in only_line(capsys.readouterr().err)
    assert hub.state() == before
    hub.faults.clear()
    assert main(["push", str(tiny_run), NAME, *branch]) == 0  # and it is not in the way of another try
    assert "model.safetensors" in hub.files(NAME, "fresh" if branch else "main")


def test_an_interruption_by_the_user_leaves_the_remote_as_it_was(hub, unchecked, tiny_run, monkeypatch, capsys):
    def interrupt(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "preupload_lfs_files", interrupt)
    assert main(["push", str(tiny_run), NAME]) == 1
    assert "interrupted" in capsys.readouterr().err
    assert hub.state() == {}


def test_a_push_of_somebody_else_in_between_is_not_overwritten(hub, tiny_run, monkeypatch, capsys):
    HfApi().create_repo(NAME)

    def push_first(*arguments):
        HfApi().upload_file(repo_id=NAME, path_in_repo="README.md", path_or_fileobj=b"# Theirs")

    monkeypatch.setattr(publish, "check_round_trip", push_first)
    assert main(["push", str(tiny_run), NAME]) == 1
    assert "changed by somebody else" in only_line(capsys.readouterr().err)
    assert hub.files(NAME)["README.md"] == b"# Theirs"
    assert "model.safetensors" not in hub.files(NAME)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{run}", "nobody/model"], 1, "may not write to 'nobody/model'"),
        (["{run}", "a/b/c"], 2, "a/b/c"),
        (["{new}", "model"], 2, "holds no model"),
        (["{run}", "model", "--max_shard_size", "much"], 2, "much"),
        (["{run}", "model", "--private", "--public"], 2, "not allowed with"),
        (["{run}", "model", "--dataset", "{new}"], 2, "there is no"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_is_one_line_and_nothing_is_sent(
    hub, unchecked, tiny_run, tmp_path, capsys, arguments, code, message
):
    places = {"run": tiny_run, "new": tmp_path / "new"}
    assert main(["push", *(argument.format(**places) for argument in arguments)]) == code
    assert message in only_line(capsys.readouterr().err)
    assert hub.state() == {}


def test_a_space_is_no_endpoint(hub, unchecked, tiny_run, capsys):
    assert main(["push", str(tiny_run), "model", "--space", "--endpoint"]) == 2
    assert "not both" in only_line(capsys.readouterr().err)


def test_without_a_token_nothing_is_tried(hub, unchecked, tiny_run, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(publish, "get_token", lambda: None)
    assert main(["push", str(tiny_run), NAME]) == 1
    assert "hf auth login" in only_line(capsys.readouterr().err)
    assert hub.seen == []


def test_a_wrong_token_is_refused_and_not_shown(hub, unchecked, tiny_run, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", "hf_anotherTokenThatMustNotLeak")
    assert main(["push", str(tiny_run), NAME]) == 1
    shown = capfd.readouterr()
    assert "did not accept the token" in only_line(shown.err)
    assert "anotherToken" not in shown.out + shown.err


@pytest.mark.parametrize("cause", ["offline", "closed port"])
def test_a_hub_out_of_reach_is_one_line(hub, unchecked, tiny_run, monkeypatch, capsys, cause):
    import huggingface_hub.constants

    if cause == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    else:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    assert main(["push", str(tiny_run), NAME]) == 1
    assert ("HF_HUB_OFFLINE" if cause == "offline" else "connection to the Hub") in only_line(capsys.readouterr().err)


@pytest.mark.parametrize("name", ["bad name/x y", "a/b/c", "a--b", "", "-a", "model.git"])
@pytest.mark.parametrize("output", [True, False])
def test_a_name_that_no_repository_can_have_is_refused_before_anything(name, output, hub, tiny_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["push", str(tiny_run), *(["--output", str(out)] if output else []), "--", name]) == 2
    line = only_line(capsys.readouterr().err)
    assert f"{name!r} cannot be a repository" in line
    assert line.endswith("Give USER/NAME or NAME.")
    assert not out.exists()
    assert not hub.repositories


def test_output_writes_what_would_be_sent_and_sends_nothing(hub, unchecked, tiny_run, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["push", str(tiny_run), NAME, "--endpoint", "--output", str(out)]) == 0
    endpoint = {"handler.py", "image_decoding.py", "requirements.txt"}
    assert {path.name for path in out.iterdir()} == SENT - {".gitattributes"} | endpoint
    assert hub.seen == []


def test_a_failed_check_stops_the_push(hub, tiny_run, monkeypatch, capsys):
    def fail(*arguments):
        raise RoundTripError("the logits of the loaded copy are not those of the model.")

    monkeypatch.setattr(publish, "check_round_trip", fail)
    assert main(["push", str(tiny_run), NAME]) == 1
    assert "logits of the loaded copy" in only_line(capsys.readouterr().err)
    assert hub.state() == {}


@pytest.mark.slow  # two fresh processes import torch and transformers
def test_the_round_trip_sees_other_weights_and_missing_code(tiny_run, tmp_path):
    model = CSSFEForImageClassification.from_pretrained(tiny_run).eval()
    processor = CSSFEImageProcessor.from_pretrained(tiny_run)
    model.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        list(model.parameters())[-1].add_(1e-6)
    with pytest.raises(RoundTripError, match="logits of the loaded copy"):
        check_round_trip(tmp_path / "model", model, processor)
    (tmp_path / "model" / "layers_cssfe.py").unlink()
    with pytest.raises(RoundTripError, match="layers_cssfe") as caught:
        check_round_trip(tmp_path / "model", model, processor)
    assert "\n" not in str(caught.value)


# --- end to end, in processes of their own ---

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
