# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""`write_report`: judged tables to one HTML page.

Everything that the page needs is inside it, and its content security policy lets it fetch nothing and run nothing but
its own script. Names and ids come from strangers' data: the template escapes all of them, and none goes into script or
style.
"""

import base64
import hashlib
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configuration_cssfe import GROUPS
from ..evaluation.score_table import ScoreTable
from .figures import PICTURE_NAMES, Intervals, draw_pictures
from .gallery import PhotoAlbum, describe_choice, gather_shots, png_uri
from .measures import MIN_PAIR_IMAGES, Judgement, judge


if TYPE_CHECKING:
    import datasets

PAGE_NAME = "report.html"
TOP_PAIRS = 20
MEANS = ("map_total", "map_head", "map_medium", "map_tail")
# Key of `long_tail_map` -> how the page calls it.
_FIGURES = {
    "map_total": "mAP, all classes",
    "map_head": "mAP, head",
    "map_medium": "mAP, medium",
    "map_tail": "mAP, tail",
    "f1_micro": "F1, all decisions together (micro)",
    "f1_macro": "F1, mean over classes (macro)",
    "f1_weighted": "F1, mean weighted by positives",
    "f1_samples": "F1, mean over images",
    "op": "OP, precision of all decisions together",
    "or": "OR, recall of all decisions together",
    "of1": "OF1, from OP and OR",
    "cp": "CP, precision, mean over classes",
    "cr": "CR, recall, mean over classes",
    "cf1": "CF1, from CP and CR",
    "auroc_macro": "AUROC, mean over classes",
    "coverage_error": "coverage error (a number of classes)",
    "ranking_loss": "ranking loss",
    "ece": "calibration error, all labels together",
    "ece_macro": "calibration error, mean over classes",
}
_DASH = "\N{EN DASH}"


def write_report(
    tables: Sequence[ScoreTable],
    output_dir: str | os.PathLike,
    *,
    intervals: Mapping[str, Intervals] | None = None,
    dataset: "datasets.Dataset | None" = None,
    model: Any = None,
    processor: Any = None,
    title: str | None = None,
    worst: int = 3,
    data_name: str | None = None,
    intervals_note: str | None = None,
    verdicts: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Write `report.html` and its pictures.

    The page opens offline, in light and dark, on a phone and on paper. Its pictures are inside it; the same pictures
    also lie beside it as `report_*.png`. Everything is made in a temporary folder first: an error leaves an older
    report as it was, and a new report replaces the older one with all its pictures. Other files in the folder stay.

    Args:
        tables: One or more, with distinct names. Several are compared in a table first.
        output_dir: Folder; made if needed.
        intervals: Table name -> figure of `long_tail_map` -> `(low, high)` fractions, with `per_class` a mapping of
            class names; a figure that is missing or None has no interval. None shows that they were not computed.
        dataset: The split that was judged, with the columns `image_id` and `image`: gives the thumbnails.
        model: The CSSFE model of the first table: draws its class activation maps over that table's thumbnails. A model
            of another kind has no such maps, which the page says.
        processor: Its image processor.
        title: Heading; by default from the tables' names.
        worst: Images of each kind (best, worst, false alarms) for each class, 1 to 20.
        data_name: What the images are, for the head of the page.
        intervals_note: How the intervals were made (method, level, resamples, seed), for the page.
        verdicts: Sentences on which tables differ (`describe_comparisons`), for the section that compares them.
        progress: Show a progress bar over thumbnails.

    Returns:
        Path of `report.html`.

    Raises:
        ValueError: There are no tables, names repeat or are not those of `intervals`, `worst` is out of range, the data
            set lacks images of a table, the model is not of the first table, or the output folder is a file.
        SavingError: Something cannot be written; an older report is as it was.
    """
    tables = list(tables)
    folder = Path(output_dir)
    _check(tables, worst, folder)
    known_intervals = _check_intervals(tables, intervals or {})
    maps_note = _check_model(tables[0], dataset, model, processor)
    albums: list[PhotoAlbum | None] = [None] * len(tables)
    if dataset is not None:
        plain = PhotoAlbum(dataset)
        albums = [plain for _ in tables]
        if maps_note is None:
            albums[0] = PhotoAlbum(dataset, model, processor)
        for table in tables:
            plain.check(table.name, table.image_ids)

    runs, pictures = [], {}
    for number, (table, album) in enumerate(zip(tables, albums, strict=True), start=1):
        judgement = judge(table)
        own = known_intervals.get(table.name, {})
        drawn = draw_pictures(judgement, own)
        prefix = "report_" if number == 1 else f"report_{number}_"
        pictures.update({f"{prefix}{picture.name}.png": picture.light for picture in drawn})
        runs.append(
            {
                "number": number,
                "name": table.name,
                "table": table,
                "figures": judgement.figures,
                "intervals": own,
                "class_rows": _class_rows(judgement, own),
                "pictures": drawn,
                "pairs": _pairs(judgement),
                "gallery": gather_shots(judgement, worst, album, progress),
                "gallery_note": describe_choice(judgement),
                "decision": _describe_thresholds(table),
                "has_unknown": judgement.figures["num_unknown"] > 0,
                "has_maps": album is not None and album.model is not None,
            }
        )
    page = _render(
        title=title or f"Evaluation of {', '.join(table.name for table in tables)}",
        runs=runs,
        differences=_differences(tables),
        data_name=data_name,
        has_intervals=any(known_intervals.values()),
        intervals_note=intervals_note,
        verdicts=verdicts,
        has_photos=dataset is not None,
        maps_note=maps_note,
        worst=worst,
    )
    # A name with half a surrogate pair, as broken file names give it, has no UTF-8.
    _save(folder, {**pictures, PAGE_NAME: page.encode("utf-8", errors="replace")})
    return folder / PAGE_NAME


def _check(tables: Sequence[ScoreTable], worst: int, folder: Path) -> None:
    if not tables:
        raise ValueError("there are no tables to report on; pass at least one ScoreTable.")
    names = [table.name for table in tables]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two tables are called {name!r}; give each a name of its own.")
    if isinstance(worst, bool) or not isinstance(worst, int) or not 1 <= worst <= 20:
        raise ValueError(f"worst is {worst!r}; pass a whole number of images from 1 to 20.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output_dir {os.fspath(folder)!r} is a file; choose a folder.")


def _check_intervals(tables: Sequence[ScoreTable], intervals: Mapping[str, Intervals]) -> dict[str, dict[str, Any]]:
    """The intervals of each table without those that are None or NaN, and without figures that the page lacks."""
    by_name = {table.name: table for table in tables}
    known: dict[str, dict[str, Any]] = {}
    for name, own in intervals.items():
        if name not in by_name:
            raise ValueError(f"intervals are given for {name!r}, which is no table; there are {', '.join(by_name)}.")
        classes = own.get("per_class") or {}
        for label in classes:
            if label not in by_name[name].label_names:
                raise ValueError(f"{name}: an interval is given for {label!r}, which is no class of the table.")
        known[name] = _drop_missing(name, {key: own.get(key) for key in _FIGURES})
        if found := _drop_missing(name, classes):
            known[name]["per_class"] = found
    return known


def _drop_missing(name: str, intervals: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    kept = {}
    for key, bounds in intervals.items():
        if bounds is None or any(bound is None or bound != bound for bound in bounds):
            continue
        low, high = map(float, bounds)
        if low > high:
            raise ValueError(f"{name}: the interval of {key!r} is {low:g} to {high:g}; give the lower end first.")
        kept[key] = (low, high)
    return kept


def _check_model(table: ScoreTable, dataset: Any, model: Any, processor: Any) -> str | None:
    """Why there are no class activation maps, or None if there will be some."""
    if model is None:
        return "No model was given, so there are no class activation maps."
    from ..modeling_cssfe import CSSFEForImageClassification

    if not isinstance(model, CSSFEForImageClassification):
        return f"{type(model).__name__} has no class activation maps of its own, so none are shown."
    if processor is None:
        raise ValueError("a model without its image processor cannot be asked for maps; pass processor too.")
    lost = sorted(set(table.label_names) - set(model.config.label_names))
    if lost:
        raise ValueError(
            f"{table.name}: the model does not know {len(lost)} of its classes, first {lost[0]!r}; pass the model of "
            "the first table."
        )
    return None if dataset is not None else "Without photographs there is nothing to lay class activation maps over."


def _class_rows(judgement: Judgement, intervals: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The class table of `long_tail_map`, most frequent first, with thresholds and intervals."""
    bounds = intervals.get("per_class", {})
    rows = [
        {**row, "threshold": float(threshold), "bounds": bounds.get(row["name"])}
        for row, threshold in zip(judgement.figures["class_table"], judgement.thresholds, strict=True)
    ]
    return sorted(rows, key=lambda row: -row["class_count"])


def _pairs(judgement: Judgement) -> list[dict[str, Any]]:
    names, confusion, rate = judgement.table.label_names, judgement.confusion, judgement.confusion.rate
    return [
        {
            "present": names[present],
            "predicted": names[absent],
            "rate": float(rate[present, absent]),
            "wrong": int(confusion.wrong[present, absent]),
            "images": int(confusion.images[present, absent]),
        }
        for present, absent in confusion.top_pairs(TOP_PAIRS)
    ]


def _describe_thresholds(table: ScoreTable) -> str:
    if table.thresholds is None or set(table.thresholds) == {0.5}:
        return ".5 for every class"
    if len(set(table.thresholds)) == 1:
        return f"{table.thresholds[0]:.3g} for every class"
    return f"one a class, from {min(table.thresholds):.3g} to {max(table.thresholds):.3g}"


def _differences(tables: Sequence[ScoreTable]) -> list[str]:
    """What keeps tables from being compared number by number."""
    first, found = tables[0], []
    for other in tables[1:]:
        what = [
            word
            for word, differ in (
                ("images", set(first.image_ids) != set(other.image_ids)),
                ("classes", set(first.label_names) != set(other.label_names)),
                ("training counts", _counts(first) != _counts(other)),
                ("bounds of the groups", (first.head_min, first.tail_max) != (other.head_min, other.tail_max)),
            )
            if differ
        ]
        if what:
            found.append(f"{other.name} was judged with other {' and other '.join(what)} than {first.name}.")
    return found


def _counts(table: ScoreTable) -> dict[str, int]:
    return dict(zip(table.label_names, table.class_counts, strict=True))


def _percent(value: float | None) -> str:
    return _DASH if value is None else f"{100 * value:.1f}"


def _figure(value: float | None, key: str) -> str:
    if key == "coverage_error" and value is not None:
        return f"{value:.2f}"
    return _percent(value)


def _interval(bounds: tuple[float, float] | None, key: str = "") -> str:
    return _DASH if bounds is None else f"{_figure(bounds[0], key)} to {_figure(bounds[1], key)}"


def _render(**content: Any) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(percent=_percent, figure=_figure, interval=_interval, png_uri=png_uri)
    # read_text turns line ends into "\n" wherever the package lies, as a browser does before it hashes.
    parts = {name: files(__package__).joinpath(f"report.{name}").read_text(encoding="utf-8") for name in ("css", "js")}
    return environment.from_string(files(__package__).joinpath(PAGE_NAME).read_text(encoding="utf-8")).render(
        **content,
        # The package's own files: the only text on the page that is not escaped.
        style=Markup(parts["css"]),
        script=Markup(parts["js"]),
        style_hash=_csp_hash(parts["css"]),
        script_hash=_csp_hash(parts["js"]),
        groups=GROUPS,
        means=MEANS,
        figure_names=_FIGURES,
        min_pair_images=MIN_PAIR_IMAGES,
        dash=_DASH,
    )


def _csp_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _save(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all files to a temporary folder, then move them in, the last one of `contents` last."""
    from ..common.files import SavingError

    ours = re.compile(rf"report_(\d+_)?({'|'.join(PICTURE_NAMES)})\.png")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            for name, content in contents.items():
                Path(temporary, name).write_bytes(content)
            for name in contents:
                os.replace(Path(temporary, name), folder / name)
        for file in folder.iterdir():
            if ours.fullmatch(file.name) and file.name not in contents:
                file.unlink()  # a picture of an older report about more tables
    except OSError as error:
        reason = error.strerror or str(error)
        raise SavingError(
            f"cannot save the report to {os.fspath(folder)!r}: {reason}; free space or choose another folder."
        ) from error


__all__ = ["PAGE_NAME", "write_report"]
