# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Publishing on the Hugging Face Hub: a model, an Inference Endpoint, a Space, a data set.

Whatever is sent is sent as one commit on the branch as it was found, so a refused or interrupted upload leaves the
repository as it was. A repository or branch that a failed call made is taken away again; only a killed process can
leave an empty one behind. New repositories are private unless told otherwise: what was published cannot be called back.

Tokens are left to `huggingface_hub` (`hf auth login`, or the variable HF_TOKEN). There is no argument for one here,
since arguments end up in histories and process lists.
"""

import contextlib
import fnmatch
import logging
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import validate_repo_id

from .deployment import write_endpoint, write_space
from .errors import PublishingError, named_hub_errors
from .round_trip import check_round_trip
from .staging import MAX_SHARD_SIZE, stage_model


if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

# Files of an earlier push that would be read in place of new ones, or beside them, and are removed if not sent again.
REPLACED = (
    "model*.safetensors", "model.safetensors.index.json", "*_cssfe.py", "thresholds.json", "results.json",
    "card.json", "figures/average_precision.png", "figures/maps.jpg", "figures/example.jpg", "modeling_cssfe/*",
)  # fmt: skip


@dataclass(frozen=True)
class Publication:
    """What was published.

    Attributes:
        repo_id: Full name of the repository.
        repo_type: `"model"`, `"space"` or `"dataset"`.
        url: Its page.
        revision: Branch that was written.
        commit: Name of the commit.
        private: Whether others cannot see it.
        files: Paths sent, sorted; of a data set, empty.
        left_out: Names in the run's folder that were not sent.
    """

    repo_id: str
    repo_type: str
    url: str
    revision: str
    commit: str
    private: bool
    files: tuple[str, ...]
    left_out: tuple[str, ...]


def prepare_push(
    run: str | os.PathLike,
    folder: str | os.PathLike,
    repo_id: str,
    *,
    space: bool = False,
    endpoint: bool = False,
    max_shard_size: str | int = MAX_SHARD_SIZE,
) -> tuple[str, ...]:
    """Write what a push would send into an empty folder, and check that a machine without this package can use it.

    Args:
        run: A folder that `cssfe train` or `save_pretrained` wrote.
        folder: Empty or new.
        repo_id: Name of the repository.
        space: Write a Space, with the model in `model/`.
        endpoint: Write the handler of Inference Endpoints beside the model.
        max_shard_size: Largest weight file, such as `"5GB"`.

    Returns:
        What is in the run's folder and was not taken along.

    Raises:
        ValueError: There is no model, no repository can have this name, both targets are asked for, or a text names a
            folder of this machine.
        RoundTripError: What was written does not give what the model gives.
    """
    _check_arguments(run, repo_id, space, endpoint)
    root = Path(folder)
    staged = stage_model(run, root / "model" if space else root, repo_id, max_shard_size)
    check_round_trip(staged.folder, staged.model, staged.processor)
    if endpoint:
        write_endpoint(root)
    if space:
        write_space(root, staged.model.config, repo_id.rpartition("/")[2])
    return staged.left_out


def push_run(
    run: str | os.PathLike,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    space: bool = False,
    endpoint: bool = False,
    max_shard_size: str | int = MAX_SHARD_SIZE,
    api: HfApi | None = None,
) -> Publication:
    """Publish a trained model, in one commit, after a round-trip check.

    Args:
        run: A folder that `cssfe train` or `save_pretrained` wrote; see `stage_model` for what of it is sent.
        repo_id: `user/name`, or `name` for a repository of one's own; made if needed.
        private: Visibility of a new repository; `None` is private. An existing one keeps its own, and asking for the
            other is an error.
        revision: Branch; made from `main` if needed. By default `main`.
        message: Of the commit.
        space: The repository is a Space that shows the model; see `modeling_cssfe.hub.deployment`.
        endpoint: Add the handler of Inference Endpoints.
        max_shard_size: Largest weight file, such as `"5GB"`.
        api: Hub client with another address or token.

    Returns:
        What was published.

    Raises:
        ValueError: Something about the arguments or the folder is wrong.
        RoundTripError: The folder does not give what the model gives; nothing was sent.
        PublishingError: The Hub refused, or cannot be reached; the repository is as it was.
    """
    _check_arguments(run, repo_id, space, endpoint)
    with _repository(repo_id, "space" if space else "model", private, revision, api) as target:
        with tempfile.TemporaryDirectory(prefix="cssfe-push-") as temporary:
            folder = Path(temporary) / "push"
            left_out = prepare_push(
                run, folder, target.name, space=space, endpoint=endpoint, max_shard_size=max_shard_size
            )
            with target.made():
                files = _files_below(folder)
                sent: list[Any] = [
                    CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(folder / name)) for name in files
                ]
                sent += [CommitOperationDelete(path_in_repo=name) for name in _outdated(target.files(), files)]
                done = target.api.create_commit(
                    target.name,
                    operations=sent,
                    commit_message=message or ("Space of a CSSFE model" if space else "CSSFE model"),
                    repo_type=target.kind,
                    revision=target.revision,
                    parent_commit=target.head,
                )
        return target.publication(done.oid, tuple(files), left_out)


def push_data(
    data: "str | os.PathLike | datasets.DatasetDict",
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    api: HfApi | None = None,
) -> Publication:
    """Publish a data set as Parquet files with its images inside, that `load_images(repo_id)` reads back.

    The data set goes by `DatasetDict.push_to_hub`, one commit for up to 50 files of about 500 MB.

    Args:
        data: Whatever `modeling_cssfe.data.load_images` reads, or has read.
        repo_id: As for `push_run`, among the data sets.
        private: As for `push_run`.
        revision: As for `push_run`.
        message: Of the commit.
        api: Hub client with another token; the address is that of HF_ENDPOINT.

    Returns:
        What was published.

    Raises:
        ValueError: Something about the arguments or the data is wrong.
        PublishingError: The Hub refused, or cannot be reached.
    """
    import datasets

    from ..data import load_images

    splits = data if isinstance(data, datasets.DatasetDict) else load_images(data)
    splits = splits.cast_column("image", datasets.Image())  # so that others see images, not bytes
    with _repository(repo_id, "dataset", private, revision, api) as target, target.made():
        splits.push_to_hub(
            target.name,
            commit_message=message or "Long-tailed multi-label images",
            revision=None if target.revision == "main" else target.revision,
            token=target.api.token,
        )
        commit = target.find_head()
        if commit is None:
            raise PublishingError(f"the branch {target.revision!r} of {target.name!r} is gone; push again.")
        return target.publication(commit, (), ())


def _check_arguments(run: str | os.PathLike, repo_id: str, space: bool, endpoint: bool) -> None:
    _check_name(repo_id)
    if space and endpoint:
        raise ValueError("a repository is a Space or an Inference Endpoint, not both; push twice, to two repositories.")
    if not (Path(run) / "config.json").is_file():
        raise ValueError(f"{os.fspath(run)!r} holds no model (no config.json); give a folder that `cssfe train` wrote.")


def _check_name(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{repo_id!r} cannot be a repository: {reason} Give USER/NAME or NAME.") from error


class _Target:
    """A repository and its branch, as they were found."""

    def __init__(self, api: HfApi, name: str, kind: str, private: bool | None, revision: str | None):
        self.api, self.name, self.kind = api, name, kind
        self.revision = revision or "main"
        self.wanted_private = private
        self.exists, self.private = True, True
        try:
            self.private = bool(api.repo_info(name, repo_type=kind).private)
        except RepositoryNotFoundError:
            self.exists, self.private = False, private is not False
        if self.exists and private is not None and self.private != private:
            now, asked = ("private", "public") if self.private else ("public", "private")
            raise ValueError(
                f"{name!r} exists and is {now}; change its visibility in its settings, or push without --{asked}."
            )
        self.head = self.find_head() if self.exists else None

    def find_head(self) -> str | None:
        try:
            return self.api.repo_info(self.name, repo_type=self.kind, revision=self.revision).sha
        except RevisionNotFoundError:
            return None

    def files(self) -> list[str]:
        return self.api.list_repo_files(self.name, repo_type=self.kind, revision=self.head)

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Make what is missing, and take it away again if the block fails."""
        undo = []
        try:
            if not self.exists:
                sdk = {"space_sdk": "gradio"} if self.kind == "space" else {}
                self.api.create_repo(self.name, repo_type=self.kind, private=self.private, **sdk)  # type: ignore[arg-type]
                undo.append("repository")
                self.head = self.find_head()
            if self.head is None:
                self.api.create_branch(self.name, branch=self.revision, repo_type=self.kind)
                undo.append("branch")
                self.head = self.find_head()
            yield
        except BaseException:
            if undo:
                self._take_away(undo[0])
            raise

    def _take_away(self, what: str) -> None:
        try:
            if self.find_head() != self.head:
                return  # the commit is there after all, or somebody else's
            if what == "repository":
                self.api.delete_repo(self.name, repo_type=self.kind)
            else:
                self.api.delete_branch(self.name, branch=self.revision, repo_type=self.kind)
        except Exception:  # the first error is the one to tell
            logger.warning("The new, empty %s %r could not be removed; delete it by hand.", what, self.name)

    def publication(self, commit: str, files: tuple[str, ...], left_out: tuple[str, ...]) -> Publication:
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        url = f"{self.api.endpoint}/{prefix}{self.name}"
        return Publication(self.name, self.kind, url, self.revision, commit, self.private, files, left_out)


@contextlib.contextmanager
def _repository(
    repo_id: str, kind: str, private: bool | None, revision: str | None, api: HfApi | None
) -> Iterator[_Target]:
    _check_name(repo_id)
    client = api or HfApi(library_name="cssfe")
    token = client.token if isinstance(client.token, str) else get_token()
    if token is None:
        raise PublishingError("there is no token for the Hub; log in with `hf auth login`, or set HF_TOKEN.")
    with named_hub_errors(repo_id, token):
        user = client.whoami()["name"]  # a bad token is told before the check takes its time
        yield _Target(client, repo_id if "/" in repo_id else f"{user}/{repo_id}", kind, private, revision)


def _files_below(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def _outdated(there: list[str], sent: list[str]) -> list[str]:
    return [
        path
        for path in there
        if path not in sent and any(fnmatch.fnmatchcase(path.removeprefix("model/"), rule) for rule in REPLACED)
    ]


__all__ = ["Publication", "prepare_push", "push_data", "push_run"]
