"""Pages that tests start, and requests to them as a browser sends them."""

import json
import os
import socket
from contextlib import contextmanager

import httpx


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def launched(folder, **settings):
    """A page of a model in this process; yields it, with `.address`."""
    from modeling_cssfe.demo import build_demo

    page = build_demo(folder, **settings)
    page.launch(server_port=free_port(), quiet=True, prevent_thread_lock=True)
    page.address = page.local_url.rstrip("/")
    try:
        yield page
    finally:
        page.close(verbose=False)


def files_below(folder) -> list[str]:
    return sorted(os.path.join(root, name) for root, _, names in os.walk(folder) for name in names)


class Visitor:
    """One user: uploads, joins the queue, waits for the answer."""

    def __init__(self, page, session: str):
        self.page, self.session = page, session
        self.http = httpx.Client(base_url=f"{page.address}/gradio_api", timeout=60, trust_env=False)

    def upload(self, name: str, content: bytes) -> httpx.Response:
        return self.http.post("/upload", files={"files": (name, content)})

    def join(self, api_name: str, *values, **more) -> httpx.Response:
        number = next(key for key, fn in self.page.fns.items() if fn.api_name == api_name)
        request = {"data": values, "fn_index": number, "session_hash": self.session, **more}
        return self.http.post("/queue/join", json=request)

    def answer(self) -> dict:
        """`{"data": [...]}` or `{"error": "..."}`."""
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "process_completed":
                    return message["output"]
        raise RuntimeError("the stream ended without an answer")

    def ask(self, api_name: str, path: str, name: str = "photograph.png") -> dict:
        file = {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
        joined = self.join(api_name, file)
        return self.answer() if joined.status_code == 200 else {"refused": joined.status_code, **joined.json()}
