"""The page under load: throughput against a bare forward loop, waiting times, and ten times more than it can queue.

The page runs in a process of its own on a free port of this machine; clients are threads here, each with one request
under way. The bare loop is the same model on one decoded image at a time, before the page is started.

    python benchmarks/demo_load.py RUN --images FOLDER

A request is answered, refused with a reason, or lost. Nothing may be lost, and after the flood the page must answer as
before.
"""

import argparse
import csv
import json
import random
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import torch

from modeling_cssfe.common.environment import describe_environment


_FILE = {"_type": "gradio.FileData"}


def serve(arguments) -> None:
    from modeling_cssfe.demo import build_demo

    page = build_demo(arguments.run, queue_size=arguments.queue_size)
    page.launch(server_name="127.0.0.1", server_port=arguments.port, quiet=True, prevent_thread_lock=True)
    page.block_thread()


def bare_loop(run: str, files: list[Path], repeats: int) -> float:
    """Images a second of forward passes of batch one, with nothing around them."""
    from modeling_cssfe.common.model_loading import load_trained_model
    from modeling_cssfe.data import decode_image

    model, processor = load_trained_model(run)
    images = [processor(decode_image(str(file)), return_tensors="pt")["pixel_values"] for file in files]
    times = []
    with torch.inference_mode():
        model(images[0])
        for _ in range(repeats):
            for image in images:
                start = time.perf_counter()
                model(image)
                times.append(time.perf_counter() - start)
    return 1 / statistics.median(times)


class Visitor:
    """One user, over plain HTTP as a browser does it: upload, join the queue, wait for the answer.

    `gradio_client` would do the same, but takes longer for its own preparations than a small model for an image.
    """

    def __init__(self, url: str, api_name: str, timeout: float):
        self.http = httpx.Client(base_url=url, timeout=timeout, trust_env=False)
        functions = self.http.get("/config").raise_for_status().json()["dependencies"]
        self.number = next(one["id"] for one in functions if one["api_name"] == api_name.strip("/"))

    def ask(self, file: Path) -> tuple[str, float, str]:
        """`answered`, `refused` or `lost`, the seconds it took, and the reason."""
        start = time.perf_counter()
        try:
            what, reason = self._ask(file)
        except (httpx.HTTPError, ValueError) as error:
            what, reason = "lost", f"{type(error).__name__}: {error}"
        return what, time.perf_counter() - start, reason

    def _ask(self, file: Path) -> tuple[str, str]:
        session = secrets.token_hex(8)
        sent = self.http.post("/gradio_api/upload", files={"files": (file.name, file.read_bytes())})
        upload = {"path": sent.raise_for_status().json()[0], "orig_name": file.name, "meta": _FILE}
        request = {"data": [upload], "fn_index": self.number, "session_hash": session}
        joined = self.http.post("/gradio_api/queue/join", json=request)
        if joined.status_code != 200:
            reason = joined.json().get("detail")
            return ("refused" if joined.status_code == 503 and reason else "lost"), f"{joined.status_code}: {reason}"
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") == "process_completed":
                    if message["success"] and message["output"]["data"][0]:
                        return "answered", ""
                    return "lost", str(message["output"].get("error"))
        return "lost", "the stream ended without an answer"


def load(url: str, api_name: str, files: list[Path], clients: int, requests: int, timeout: float) -> dict:
    """`requests` images by `clients` at once."""
    with ThreadPoolExecutor(clients) as pool:
        visitors = list(pool.map(lambda _: Visitor(url, api_name, timeout), range(clients)))
        chosen = [random.Random(number).choice(files) for number in range(requests)]
        start = time.perf_counter()
        # A client's share is asked for one after the other.
        shares = [(visitors[number], chosen[number::clients]) for number in range(clients)]
        results = [
            result for share in pool.map(lambda pair: [pair[0].ask(file) for file in pair[1]], shares)
            for result in share
        ]  # fmt: skip
        seconds = time.perf_counter() - start
    waits = sorted(wait for what, wait, _ in results if what == "answered")
    counts = {what: sum(result[0] == what for result in results) for what in ("answered", "refused", "lost")}
    return {
        "clients": clients,
        "requests": requests,
        **counts,
        "images_per_second": round(len(waits) / seconds, 3),
        "p50_ms": round(1000 * _quantile(waits, 0.5), 1),
        "p99_ms": round(1000 * _quantile(waits, 0.99), 1),
        "reasons": " | ".join(sorted({reason[:120] for what, _, reason in results if what != "answered"})),
    }


def _quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def wait_for(port: int, process: subprocess.Popen, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"the page ended with code {process.returncode}; run `cssfe demo` to see why.")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise SystemExit(f"the page did not answer within {seconds:g} s.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder that `cssfe train` wrote")
    parser.add_argument("--images", type=Path, help="folder of photographs")
    parser.add_argument("--num_images", type=int, default=32)
    parser.add_argument("--requests", type=int, default=200, help="for each number of clients")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--queue_size", type=int, default=20)
    parser.add_argument("--api_name", default="/classify", help="of the page's function for one image")
    parser.add_argument("--timeout", type=float, default=300, help="seconds until a request counts as lost")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "demo_load.csv")
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.port:
        serve(arguments)
        return
    if arguments.images is None:
        parser.error("--images is missing; name a folder of photographs.")
    files = sorted(path for path in arguments.images.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    files = files[: arguments.num_images]
    if not files:
        parser.error(f"{arguments.images} holds no photographs.")
    bare = bare_loop(arguments.run, files, max(1, 64 // len(files)))
    rows = [{"load": "bare forward loop", "images_per_second": round(bare, 3)}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, __file__, arguments.run, "--port", str(port)]
    process = subprocess.Popen([*command, "--queue_size", str(arguments.queue_size)], stdout=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(port, process)
        load(url, arguments.api_name, files, 1, 2, arguments.timeout)  # the first forward pass is the slowest
        for clients in arguments.clients:
            part = load(url, arguments.api_name, files, clients, arguments.requests, arguments.timeout)
            rows.append({"load": f"{clients} at once", **part})
        flood = 10 * arguments.queue_size
        rows.append(
            {"load": "flood, 10 x the queue", **load(url, arguments.api_name, files, flood, flood, arguments.timeout)}
        )
        rows.append({"load": "after the flood", **load(url, arguments.api_name, files, 1, 8, arguments.timeout)})
    finally:
        process.send_signal(signal.SIGINT)  # as Ctrl-C, so that its folder of uploads goes with it
        process.wait(30)
    environment = describe_environment()
    for row in rows:
        row["ratio_to_bare_loop"] = round(row["images_per_second"] / bare, 3)
        row["queue_size"] = arguments.queue_size
        row.update(environment)
        print({key: value for key, value in row.items() if key not in environment})
    columns = list(dict.fromkeys(key for row in sorted(rows, key=len, reverse=True) for key in row))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.output.with_suffix(".partial")
    with open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(arguments.output)
    lost = sum(row.get("lost", 0) for row in rows)
    if lost or rows[-1]["answered"] != rows[-1]["requests"]:
        raise SystemExit(
            f"{lost} requests were lost, {rows[-1]['answered']} of {rows[-1]['requests']} after the flood."
        )


if __name__ == "__main__":
    main()
