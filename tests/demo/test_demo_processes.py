"""The page as its users start it: `cssfe demo`, and a Space as its host runs it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from tiny_runs import make_scene


pytest.importorskip("gradio", reason="the page needs gradio")

from demo_pages import files_below, free_port

from modeling_cssfe import CSSFEConfig, CSSFEForImageClassification, CSSFEImageProcessor
from modeling_cssfe.cli import main
from modeling_cssfe.demo.classifier import Classifier
from modeling_cssfe.hub.deployment import write_space


def offline(work, **more):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_", "GRADIO_"))}
    return kept | {"HF_HOME": str(work / "home"), "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(work / "gradio")} | more


def wait_for(port, process=None, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end and (process is None or process.poll() is None):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    told = ""
    if process is not None:
        process.kill()
        told = process.communicate()[1][-3000:]
    raise RuntimeError(f"no page on port {port}: {told}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    file = tmp_path_factory.mktemp("scene") / "scene.png"
    make_scene(np.random.default_rng(8), ["red", "blue"]).save(file)
    return file


@pytest.fixture(scope="module")
def wanted(tiny_run, scene):
    classifier = Classifier(tiny_run, 10**6, 10**6)
    return classifier.describe(classifier.read(classifier.decode(scene, "scene.png")))


def ask(port, scene):
    from gradio_client import Client, handle_file

    # By default httpx waits five seconds, in which a busy machine may not have made its first page.
    patient = {"timeout": 120}
    client = Client(f"http://127.0.0.1:{port}", verbose=False, download_files=False, httpx_kwargs=patient)
    return client, client.predict(handle_file(str(scene)), api_name="/classify")


def assert_same(found, wanted):
    assert [one["label"] for one in found] == [one["label"] for one in wanted]
    assert [one["score"] for one in found] == pytest.approx([one["score"] for one in wanted], abs=1e-5)


def test_the_command_shows_a_model_and_leaves_nothing_when_it_is_ended(tiny_run, scene, wanted, tmp_path, capsys):
    import httpx

    port, seen = free_port(), {}

    def visit():
        try:
            wait_for(port)
            seen["answer"] = ask(port, scene)[1]
            upload = {"files": ("left.png", scene.read_bytes())}
            seen["left"] = httpx.post(f"http://127.0.0.1:{port}/gradio_api/upload", files=upload, timeout=120).json()
            seen["files"] = files_below(tmp_path / "gradio")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # also if the command is not at work yet
    visitor = threading.Thread(target=visit)
    try:
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
            visitor.start()
            assert main(["demo", str(tiny_run), "--port", str(port)]) == 0
    finally:
        visitor.join(60)
        signal.signal(signal.SIGTERM, before)
    assert_same(seen["answer"], wanted)
    assert len(seen["left"]) == 1
    assert seen["files"] == seen["left"]
    told = capsys.readouterr()
    assert f"http://127.0.0.1:{port}" in told.out
    assert "Traceback" not in told.err
    assert list((tmp_path / "gradio").glob("cssfe-*")) == []


@pytest.mark.slow  # a fresh process imports torch, transformers and gradio
def test_a_space_answers_from_its_own_folder(tiny_run, scene, wanted, tmp_path):
    space = tmp_path / "space"
    CSSFEForImageClassification.from_pretrained(tiny_run).save_pretrained(space / "model")
    CSSFEImageProcessor.from_pretrained(tiny_run).save_pretrained(space / "model")
    write_space(space, CSSFEConfig.from_pretrained(tiny_run), "A page")
    port = free_port()
    # A Space's host runs app.py in its folder, and says by the environment where to listen.
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=space, env=offline(tmp_path, GRADIO_SERVER_PORT=str(port)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(port, process)
        client, answer = ask(port, scene)
        assert_same(answer, wanted)
        assert client.config["title"] == "CSSFE: model"
        assert files_below(tmp_path / "gradio") == []
    finally:
        process.terminate()
        process.communicate(timeout=60)
