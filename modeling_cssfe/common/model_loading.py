# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Trained models from folders and Hub repositories: whole and of the wanted kind, or a one-line error.

transformers gives random weights to whatever a file does not hold, and builds a CSSFE model of any configuration. A
figure or an export of such a model would be wrong without a sign of it, so both are refused here.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoImageProcessor, AutoModelForImageClassification, PretrainedConfig

from ..configuration_cssfe import CSSFEConfig
from ..image_processing_cssfe import CSSFEImageProcessor
from ..modeling_cssfe import CSSFEForImageClassification


logger = logging.getLogger(__name__)

_RESTORE = "copy or download the folder again, or train again"


def load_trained_model(path: str | os.PathLike) -> tuple[CSSFEForImageClassification, CSSFEImageProcessor]:
    """A trained model and its image processor from a folder or a Hub repository.

    Raises:
        ValueError: There is no CSSFE model, or its weights are damaged, incomplete, of other shapes or not finite; one
            line says which.
    """
    _require_place(path)
    require_cssfe(path)
    return _load(path, CSSFEForImageClassification)


def load_image_classifier(path: str | os.PathLike) -> tuple[Any, Any]:
    """Any model of `AutoModelForImageClassification`, CSSFE or not, in fp32, and its image processor.

    Args:
        path: Folder or Hub repository. Code that lies in the repository is not run.

    Raises:
        ValueError: There is no such model, or its weights are damaged, incomplete, of other shapes or not finite; one
            line says which.
    """
    _require_place(path)
    _kind_of(path)
    # transformers loads in the dtype that was saved; images come as fp32.
    return _load(path, AutoModelForImageClassification, dtype=torch.float32)


def load_cssfe_config(path: str | os.PathLike) -> CSSFEConfig:
    """The configuration of a CSSFE model in a folder or a Hub repository.

    Raises:
        ValueError: There is none, or it is of another kind of model.
    """
    require_cssfe(path)
    return CSSFEConfig.from_pretrained(path)


def require_cssfe(path: str | os.PathLike) -> None:
    """Refuse a model of another kind: transformers would read its configuration as one of CSSFE.

    Raises:
        ValueError: `config.json` is missing, no JSON object, or of another kind of model.
    """
    name, kind = os.fspath(path), _kind_of(path)
    if kind != "cssfe":
        what = "says no model_type in its config.json" if kind is None else f"is a model of type {kind!r}"
        raise ValueError(
            f"{name!r} {what}, expected 'cssfe'; give a folder that `cssfe train` wrote (`cssfe evaluate` takes other "
            "image classifiers too)."
        )


def require_finite_weights(model: torch.nn.Module, name: str) -> None:
    """Refuse weights with NaN or infinity, which make every figure and export meaningless.

    Raises:
        ValueError: A parameter is not finite, or a buffer is NaN or +infinity (models of text mask by -infinity); the
            first is named.
    """
    parameters = dict(model.named_parameters())
    for key, weight in (*parameters.items(), *model.named_buffers()):
        wrong = ~torch.isfinite(weight)
        if key not in parameters:
            wrong &= weight != -torch.inf
        if wrong.any():
            count = int(wrong.sum())
            raise ValueError(
                f"the weights of {name!r} are not finite: {key} has {count:,} of {weight.numel():,} values that are "
                f"NaN or infinite; {_RESTORE}."
            )


def _kind_of(path: str | os.PathLike) -> str | None:
    """What `config.json` says of the kind of model."""
    name = os.fspath(path)
    try:
        content, _ = PretrainedConfig.get_config_dict(name)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot load a model from {name!r}: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"the config.json of {name!r} holds no JSON object; {_RESTORE}.")
    return content.get("model_type")


def _require_place(path: str | os.PathLike) -> None:
    name = os.fspath(path)
    if os.path.isdir(name) and not os.path.isfile(os.path.join(name, "config.json")):
        raise ValueError(f"{name!r} holds no model (no config.json); give a folder that `cssfe train` wrote.")
    if not os.path.isdir(name) and (os.path.isabs(name) or name.startswith(".") or name.count("/") != 1):
        raise ValueError(f"there is no folder {name!r}; give a folder that `cssfe train` wrote or a Hub repository.")


def _load(path: str | os.PathLike, model_class: Any, **options: Any) -> tuple[Any, Any]:
    name = os.fspath(path)
    try:
        with _no_load_report():
            # Mismatches are listed then, not raised over several lines.
            model, report = model_class.from_pretrained(
                name, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        processor = AutoImageProcessor.from_pretrained(name)
    except SafetensorError as error:
        raise ValueError(f"{_damaged_file(name)} is damaged ({_one_line(error)}); {_RESTORE}.") from error
    except OSError as error:
        raise ValueError(f"cannot load a model from {name!r}: {_one_line(error)}") from error
    except ValueError as error:  # transformers lists every architecture it knows
        raise ValueError(f"{name!r} is no image classification model that can be loaded: {_one_line(error)}") from error
    _require_every_weight(name, report)
    require_finite_weights(model, name)
    return model.eval(), processor


def _require_every_weight(name: str, report: dict[str, Any]) -> None:
    missing, mismatched = sorted(report["missing_keys"]), sorted(report["mismatched_keys"])
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ValueError(
            f"the weights of {name!r} lack {len(missing)} tensor(s) that its config.json asks for ({shown}); give a "
            f"whole image classification model, or {_RESTORE}."
        )
    if mismatched:
        key, found, wanted = mismatched[0]
        more = f", and {len(mismatched) - 1} more do not fit" if len(mismatched) > 1 else ""
        raise ValueError(
            f"the weights of {name!r} do not fit its config.json: {key} has the shape {tuple(found)}, expected "
            f"{tuple(wanted)}{more}; {_RESTORE}."
        )
    if unexpected := sorted(report["unexpected_keys"]):
        logger.warning(
            "The weights of %r hold %d tensor(s) that the model has no place for, such as %s; they are left out.",
            name, len(unexpected), unexpected[0],
        )  # fmt: skip


@contextlib.contextmanager
def _no_load_report() -> Iterator[None]:
    """Keep transformers from printing a table of what is missing, which is told in one line here."""
    reporter = logging.getLogger("transformers.modeling_utils")

    def keep(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    # Not by the logger's level: transformers remarks on the sharding of layers as soon as one is set.
    reporter.addFilter(keep)
    try:
        yield
    finally:
        reporter.removeFilter(keep)


def _damaged_file(name: str) -> str:
    """The first weight file of a folder that cannot be opened; of a Hub repository, all that is known is its name."""
    for file in sorted(Path(name).glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (SafetensorError, OSError):
            return repr(os.fspath(file))
    return f"a weight file of {name!r}"


def _one_line(error: Exception) -> str:
    lines = [" ".join(line.split()) for line in str(error).strip().splitlines()]
    # An OSError's reason may go over several lines; the rest of any long message is a list of what there is.
    text = " ".join(lines) if isinstance(error, OSError) else lines[0] if lines else type(error).__name__
    return text[:300]


__all__ = [
    "load_cssfe_config",
    "load_image_classifier",
    "load_trained_model",
    "require_cssfe",
    "require_finite_weights",
]
