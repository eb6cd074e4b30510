# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe demo`: a page on which a model is tried out."""

import argparse
import importlib.util
import signal
import socket

from ._verbs import AddVerb


def register(add: AddVerb) -> None:
    """Declare `cssfe demo`."""
    demo = add("demo", _demo, "Show a page on which photographs are dropped to see their labels and maps.")
    demo.add_argument("model", help="folder or Hub repository of a trained model")
    demo.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens it to the network")
    demo.add_argument("--port", type=int, help="by default the first free one from 7860")
    demo.add_argument("--queue_size", type=int, default=32, help="requests that may wait; more are refused")


def _demo(options: argparse.Namespace) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise ValueError('the page needs gradio, which is not installed; run: pip install "cssfe[demo]".')
    if options.port is not None and not 1 <= options.port <= 65535:
        raise ValueError(f"--port is {options.port}; give a number from 1 to 65535.")
    _check_address(options.host, options.port)
    from ..demo import build_demo

    page = build_demo(options.model, queue_size=options.queue_size)
    # As for Ctrl-C, so that uploads that wait are deleted when a service manager ends the page.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        page.launch(server_name=options.host, server_port=options.port, quiet=True, prevent_thread_lock=True)
        print(f"{page.local_url} shows {options.model}; Ctrl-C ends it.", flush=True)
        page.block_thread()
    except KeyboardInterrupt:
        pass  # the way in which a page ends
    finally:
        page.close(verbose=False)
        signal.signal(signal.SIGTERM, before)


def _check_address(host: str, port: int | None) -> None:
    """Find an address that cannot be had before the model is loaded, in words of this command's options."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port or 0), family=family).close()
    except OSError as error:
        place = host if port is None else f"{host}:{port}"
        reason = error.strerror or error
        raise ValueError(f"cannot listen on {place} ({reason}); choose another --host or --port.") from error


__all__ = ["register"]
