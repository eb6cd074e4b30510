"""What stops a push, and that the Hub on this machine is then as it was."""

import socket

import pytest
import torch
from huggingface_hub import HfApi
from pushes import NAME, SENT, only_line

from modeling_cssfe import CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.cli import main
from modeling_cssfe.hub import publish
from modeling_cssfe.hub.round_trip import RoundTripError, check_round_trip


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
    assert main(["push", str(tiny_run), NAME]) == 130
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
