# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Uploaded files: each request's in a folder of its own, gone when it is answered.

Gradio names an uploaded file by its content, so two users with the same photograph share one file, and neither could
delete it without robbing the other. Here each upload has a folder with a name that nobody can guess. It is deleted when
its request was answered, after `keep_seconds` if nobody ever asked about it, and with everything else when the page is
closed.
"""

import asyncio
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from gradio.exceptions import Error
from gradio.route_utils import MultiPartException, upload_fn
from gradio.utils import get_upload_folder
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response


# What the page may load: its own files, and pictures that are inside it. Gradio's own scripts are inline and use eval.
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
_SWEEP_SECONDS = 15


class Uploads:
    """The folder of uploaded files, and what keeps it empty.

    Args:
        max_bytes: Largest file.
        keep_seconds: How long a file is kept that nobody asks about.
    """

    def __init__(self, max_bytes: int, keep_seconds: float):
        self.max_bytes, self.keep_seconds = max_bytes, keep_seconds
        self._folder: tempfile.TemporaryDirectory | None = None

    @property
    def root(self) -> Path:
        """The folder; made at first use, below gradio's own."""
        if self._folder is None:
            above = Path(get_upload_folder())
            above.mkdir(parents=True, exist_ok=True)
            self._folder = tempfile.TemporaryDirectory(prefix="cssfe-", dir=above)
        return Path(self._folder.name).resolve()

    def locate(self, path: str) -> Path:
        """An uploaded file.

        Raises:
            gradio.Error: An address, which is not opened, a file that is not an upload, or one that is gone.
        """
        if "://" in path:
            raise Error("addresses are not opened; upload the file itself.", print_exception=False)
        file = Path(os.path.abspath(path))
        if not file.is_relative_to(self.root) or len(file.relative_to(self.root).parts) != 3:
            raise Error("this file was not uploaded here; upload it first.", print_exception=False)
        if not file.is_file():
            raise Error("this upload is gone; upload the file again.", print_exception=False)
        return file

    async def accept(self, path: str | Path | None) -> str | None:
        """Stands in for gradio's own way of fetching a component's file, which would open addresses."""
        return None if path is None else str(self.locate(str(path)))

    def forget(self, file: Path) -> None:
        """Delete an uploaded file, and its folders (upload / hash / file) when nothing else is in them."""
        file.unlink(missing_ok=True)
        with suppress(OSError):  # other files of the same upload
            file.parent.rmdir()
            file.parent.parent.rmdir()

    async def receive(self, request: Request) -> Response:
        """Write the files of an upload into a new folder.

        Returns:
            Their paths as JSON, or one line on what is wrong with them: 413 too large, 400 malformed.
        """
        folder = self.root / secrets.token_hex(16)
        try:
            files, *_ = await upload_fn(request, folder, self.max_bytes, None)
            return JSONResponse([str(file) for file in files])
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, HTTPException):
                return PlainTextResponse(error.detail, status_code=error.status_code)
            if not isinstance(error, MultiPartException):
                raise
            large = "maximum allowed size" in error.message
            told = f"the file is larger than {self.max_bytes:,} bytes; shrink it." if large else error.message
            return PlainTextResponse(told, status_code=413 if large else 400)

    def sweep(self) -> None:
        """Delete what nobody asked about for `keep_seconds`."""
        for folder in self.root.iterdir():
            with suppress(FileNotFoundError):
                if time.time() - folder.stat().st_mtime > self.keep_seconds:
                    shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Delete everything."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Runs with the server: sweeps while it is up, deletes everything when it goes."""
        task = asyncio.create_task(self._keep_clean(app))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.close()

    async def _keep_clean(self, app: Any) -> None:
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self.keep_seconds))
            await asyncio.to_thread(self.sweep)
            # Gradio remembers what it showed, and so the photograph, until thousands of others came.
            holder = app.state_holder
            for session, used in list(holder.time_last_used.items()):
                if time.time() - used.timestamp() > self.keep_seconds:
                    holder.session_data.pop(session, None)
                    holder.time_last_used.pop(session, None)


class PageMiddleware:
    """Takes uploads, and tells browsers to load nothing from elsewhere.

    Args:
        app: The ASGI application behind it.
        uploads: Where uploads go.
    """

    def __init__(self, app: Any, uploads: Uploads):
        self.app, self.uploads = app, uploads

    async def __call__(self, scope, receive, send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"].rstrip("/")
        if scope["method"] == "POST" and path.endswith("/upload"):
            response = await self.uploads.receive(Request(scope, receive))
            await response(scope, receive, send)
            return
        if path.endswith(
            "/upload_progress"
        ):  # browsers wait for its end, and uploads of this page's size are soon done
            await Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")(scope, receive, send)
            return
        if path.endswith("/deep_link"):  # gradio would write what a user sees into a file
            await PlainTextResponse("not kept", status_code=404)(scope, receive, send)
            return

        async def guarded(message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = _POLICY
            await send(message)

        await self.app(scope, receive, guarded)


__all__ = ["PageMiddleware", "Uploads"]
