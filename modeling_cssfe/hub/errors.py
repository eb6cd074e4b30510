# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What went wrong at the Hub, in one line that says how to mend it and never shows a token."""

import contextlib
import re
from collections.abc import Iterator

from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}|(?<=Bearer )\S+")


class PublishingError(RuntimeError):
    """Something could not be published; one line says why, and what to do."""


@contextlib.contextmanager
def named_hub_errors(repo_id: str, token: str | None = None) -> Iterator[None]:
    """Turn errors of the Hub client inside the block into a `PublishingError`; others pass.

    Args:
        repo_id: Named in the message.
        token: Cut out of the message, should it be there, as is everything that looks like a token.
    """
    try:
        yield
    except PublishingError:
        raise
    except Exception as error:
        told = _explain(error, repo_id)
        if told is None:
            raise
        told = _TOKEN.sub("(token)", told)
        # No cause: its traceback, shown by --debug, could carry headers.
        raise PublishingError(told.replace(token, "(token)") if token else told) from None


def _explain(error: BaseException, repo_id: str) -> str | None:
    seen: BaseException | None = error
    while seen is not None:  # an upload's worker thread wraps what happened
        told = _explain_one(seen, repo_id)
        if told is not None:
            return told
        seen = seen.__cause__ or seen.__context__
    return None


def _explain_one(error: BaseException, repo_id: str) -> str | None:
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, so nothing can be sent; unset it."
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no token for the Hub; log in with `hf auth login`, or set HF_TOKEN."
    if isinstance(error, HfHubHTTPError):
        return _explain_status(error, repo_id)
    # The client's HTTP library has had several names.
    if type(error).__module__.partition(".")[0].startswith("httpx") or isinstance(error, ConnectionError):
        from huggingface_hub import constants

        return (
            f"the connection to the Hub at {constants.ENDPOINT} failed ({type(error).__name__}); check the network and "
            "HF_ENDPOINT, and try again."
        )
    return None


def _explain_status(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code if error.response is not None else 0
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id!r} has no such revision; name a branch."
    if isinstance(error, RepositoryNotFoundError) and status != 401:
        return f"the Hub has no repository {repo_id!r}, or the token may not see it; check the name and the token."
    if status == 401:
        return "the Hub did not accept the token; log in with `hf auth login`, or set HF_TOKEN to a valid one."
    if status == 403:
        return f"the token may not write to {repo_id!r}; use a token with write access, or another name."
    if status in (409, 412):
        return f"{repo_id!r} was changed by somebody else meanwhile; run the command again."
    if status == 429:
        return "the Hub refuses so many requests; wait a few minutes and run the command again."
    if status >= 500:
        return f"the Hub failed (status {status}); try again later."
    reason = " ".join((error.server_message or str(error)).split())[:300]
    return f"the Hub refused the request (status {status}): {reason}"


__all__ = ["PublishingError", "named_hub_errors"]
