# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`cssfe push`: a run to the Hugging Face Hub."""

import argparse
import shutil
import tempfile
from typing import TYPE_CHECKING

from ._verbs import AddVerb


if TYPE_CHECKING:
    from ..hub.publish import Publication


def register(add: AddVerb) -> None:
    """Declare `cssfe push`."""
    push = add("push", _push, "Publish a trained model on the Hugging Face Hub, after a round-trip check.")
    push.add_argument("model", help="folder that `cssfe train` wrote")
    push.add_argument("repo", help="USER/NAME, or NAME for a repository of your own; made if needed")
    visibility = push.add_mutually_exclusive_group()
    visibility.add_argument(
        "--private", action="store_true", help="nobody else sees a new repository; so it is without --public, too"
    )
    visibility.add_argument("--public", action="store_true", help="everybody sees a new repository")
    push.add_argument("--revision", "--branch", default="main", help="branch; made from main if needed")
    push.add_argument("--message", help="of the commit")
    push.add_argument("--endpoint", action="store_true", help="add the handler of Inference Endpoints")
    push.add_argument("--space", action="store_true", help="make REPO a Space: the page of `cssfe demo`")
    push.add_argument("--dataset", metavar="DATA", help="push this data, too, as the data set REPO")
    push.add_argument("--max_shard_size", default="5GB", help="largest weight file")
    push.add_argument("--output", metavar="DIR", help="write what would be sent into this folder, and send nothing")


def _push(options: argparse.Namespace) -> None:
    from ..hub.publish import prepare_push, push_data, push_run
    from ..training.run_folder import RunFolder

    targets = {"space": options.space, "endpoint": options.endpoint, "max_shard_size": options.max_shard_size}
    if options.output:
        if options.dataset:
            raise ValueError("--output shows a model; push --dataset without it.")
        folder = RunFolder(options.output, option="--output")
        with tempfile.TemporaryDirectory(prefix="cssfe-push-") as temporary:
            left_out = prepare_push(options.model, temporary, options.repo, **targets)
            folder.save_files(lambda empty: shutil.copytree(temporary, empty, dirs_exist_ok=True))
        print(f"{folder.path}: checked, and not sent")
        _print_left_out(left_out)
        return
    common = {
        "private": True if options.private else False if options.public else None,
        "revision": options.revision,
        "message": options.message,
    }
    data = None
    if options.dataset:
        from ..data import load_images

        data = load_images(options.dataset)  # before anything is sent: it may not be readable
    _print_publication(push_run(options.model, options.repo, **targets, **common))
    if data is not None:
        _print_publication(push_data(data, options.repo, **common))


def _print_publication(done: "Publication") -> None:
    what = f"{len(done.files)} files" if done.files else "data"
    seen = "private" if done.private else "public"
    print(f"{done.url}: {what}, {seen}, commit {done.commit[:10]} on {done.revision}")
    _print_left_out(done.left_out)


def _print_left_out(names: tuple[str, ...]) -> None:
    if names:
        print(f"not sent: {', '.join(names)}")


__all__ = ["register"]
