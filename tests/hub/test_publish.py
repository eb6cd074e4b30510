"""Publishing against a Hub on this machine."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from loopback import TOKEN, USER
from pushes import NAME, SENT, only_line
from safetensors.torch import load, load_file
from tiny_runs import make_scene

from modeling_cssfe import CSSFEForImageClassification
from modeling_cssfe.cli import main
from modeling_cssfe.hub.errors import PublishingError
from modeling_cssfe.hub.publish import push_data, push_run
from modeling_cssfe.hub.staging import linked_pictures, without_paths


ROOT = Path(__file__).parents[2]


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
