import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from loopback import TOKEN, LoopbackHub

from modeling_cssfe.hub import publish


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine, which this process's client talks to, without waiting between its retries."""
    from huggingface_hub.utils import _http

    with LoopbackHub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        template = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
        own = template.replace(huggingface_hub.constants.ENDPOINT, server.endpoint)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", own)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.endpoint)
        monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
        huggingface_hub.close_session()


@pytest.fixture
def unchecked(monkeypatch):
    """The round trip takes a fresh process, and has tests of its own."""
    monkeypatch.setattr(publish, "check_round_trip", lambda *arguments: None)


@pytest.fixture
def run(tiny_run, tmp_path):
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))
