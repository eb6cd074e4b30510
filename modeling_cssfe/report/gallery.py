# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Best and worst images of each class, as thumbnails inside the page."""

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..configuration_cssfe import GROUPS
from .measures import Judgement


if TYPE_CHECKING:
    import datasets
    from PIL import Image

# Nine photographs a class, each with its map, are about 100 kB: 40 classes keep a page within what a phone opens.
MAX_CLASSES = 40
CLASSES_OF_A_GROUP = 10
_SIDE = 176  # longest side of a thumbnail in pixels
_QUALITY = 82


@dataclass(frozen=True)
class Shot:
    """One image of one class.

    Attributes:
        image_id: Of the table.
        score: Probability of the class.
        verdict: What the threshold makes of it: `found`, `missed`, `false alarm` or `rightly absent`.
        photo: Data URI of a JPEG, or None without photographs.
        heat: The same with the class activation map over it, or None.
        trouble: Why there is no photograph, or "".
    """

    image_id: str
    score: float
    verdict: str
    photo: str | None = None
    heat: str | None = None
    trouble: str = ""


@dataclass(frozen=True)
class ClassShots:
    """The images of a class.

    Attributes:
        name: Of the class.
        group: Of the class.
        average_precision: A fraction, or None for a class without positives.
        best: Positives with the highest scores, highest first.
        worst: Positives with the lowest scores, lowest first.
        alarms: Negatives with the highest scores, highest first.
    """

    name: str
    group: str
    average_precision: float | None
    best: list[Shot]
    worst: list[Shot]
    alarms: list[Shot]


class PhotoAlbum:
    """Thumbnails of a data set's images by id, each made once.

    Args:
        dataset: One split with the columns `image_id` and `image`, as `load_images` gives it.
        model: Of whose class activation maps overlays are drawn; None draws none.
        processor: Of the model.

    Raises:
        ValueError: A column is missing, or there is a model that cannot be asked for maps.
    """

    def __init__(self, dataset: "datasets.Dataset", model: Any = None, processor: Any = None):
        columns = getattr(dataset, "column_names", None)
        if not isinstance(columns, list) or not {"image_id", "image"} <= set(columns):
            raise ValueError(
                f"dataset must be one split with the columns 'image_id' and 'image', got {columns!r}; load it with "
                "load_images and choose the split that was judged."
            )
        self.dataset = dataset
        self.model = model
        self.processor = processor
        self._rows = {image_id: row for row, image_id in enumerate(dataset["image_id"])}
        self._photos: dict[str, tuple[str | None, str]] = {}

    def check(self, table_name: str, image_ids: tuple[str, ...]) -> None:
        """Refuse a table of other images.

        Raises:
            ValueError: An image of the table is not in the data set.
        """
        lost = [image_id for image_id in image_ids if image_id not in self._rows]
        if lost:
            raise ValueError(
                f"{table_name}: {len(lost):,} of {len(image_ids):,} images are not in the data set, first {lost[0]!r}; "
                "pass the split that was judged, or no dataset for a report without photographs."
            )

    def photo(self, image_id: str) -> tuple[str | None, str]:
        """Data URI of a thumbnail and "", or None and the reason why there is none."""
        from ..data.decoding import ImageDecodingError

        if image_id not in self._photos:
            try:
                self._photos[image_id] = (_data_uri(_shrink(self._open(image_id))), "")
            except ImageDecodingError as error:
                # One broken file among thousands must not cost the report of all the others.
                self._photos[image_id] = (None, str(error))
        return self._photos[image_id]

    def heat(self, image_id: str, label: str) -> str | None:
        """Data URI of the photograph in grey with the model's map of `label` over it."""
        if self.model is None or self.photo(image_id)[0] is None:
            return None
        import torch

        from ..explain.maps import compute_label_maps
        from ..explain.overlays import overlay, resize_maps

        image = self._open(image_id)
        maps = compute_label_maps(self.model, self.processor, image, [label])[0]
        values = torch.from_numpy(maps.before if maps.after is None else maps.after)
        photo = _shrink(image)
        return _data_uri(overlay(photo, resize_maps(values[None], (photo.height, photo.width))[0]))

    def _open(self, image_id: str) -> "Image.Image":
        from ..data.decoding import decode_image

        return decode_image(self.dataset[self._rows[image_id]]["image"], image_id=image_id)


def gather_shots(
    judgement: Judgement, worst: int = 3, album: PhotoAlbum | None = None, progress: bool = True
) -> list[ClassShots]:
    """Choose the best and worst images of each class.

    A positive is shown once: where a class has fewer than `2 * worst` positives, the higher half are its best.

    Args:
        judgement: From `judge`.
        worst: Images of each kind and class, >= 1.
        album: Thumbnails; None gives ids and scores alone.
        progress: Show a progress bar over photographs.

    Returns:
        One entry a class in the order of `gallery_classes`.
    """
    from tqdm.auto import tqdm

    table, class_table = judgement.table, judgement.figures["class_table"]
    columns = gallery_classes(judgement)
    gallery = []
    for column in tqdm(columns, desc="Drawing images", unit="class", disable=not progress or album is None):
        name, scores = table.label_names[column], table.scores[:, column]
        present = np.flatnonzero(table.labels[:, column] == 1)
        falling = present[np.argsort(-scores[present], kind="stable")]
        number = min(worst, len(present) // 2)
        absent = np.flatnonzero(table.labels[:, column] == 0)
        best = falling[: min(worst, len(present) - len(present) // 2)]
        kinds = {
            "best": best,
            "worst": falling[len(falling) - number :][::-1],
            "alarms": absent[np.argsort(-scores[absent], kind="stable")][:worst],
        }
        threshold = judgement.thresholds[column]
        shots = {}
        for kind, rows in kinds.items():
            words = ("rightly absent", "false alarm") if kind == "alarms" else ("missed", "found")
            shots[kind] = [
                _take(album, table.image_ids[row], name, float(scores[row]), words[int(scores[row] >= threshold)])
                for row in rows
            ]
        row = class_table[column]
        gallery.append(ClassShots(name, row["group"], row["average_precision"], **shots))
    return gallery


def gallery_classes(judgement: Judgement) -> list[int]:
    """Columns that the gallery shows, rarest in training first.

    Up to `MAX_CLASSES` all are; of more, the `CLASSES_OF_A_GROUP` of each group with the lowest average precision.
    """
    table = judgement.figures["class_table"]
    chosen = list(range(len(table)))
    if len(table) > MAX_CLASSES:
        members = {group: [index for index in chosen if table[index]["group"] == group] for group in GROUPS}
        chosen = [
            index
            for group in GROUPS
            for index in sorted(
                (index for index in members[group] if table[index]["average_precision"] is not None),
                key=lambda index: table[index]["average_precision"],
            )[:CLASSES_OF_A_GROUP]
        ]
    return sorted(chosen, key=lambda index: (table[index]["class_count"], index))


def _take(album: PhotoAlbum | None, image_id: str, label: str, score: float, verdict: str) -> Shot:
    if album is None:
        return Shot(image_id, score, verdict)
    photo, trouble = album.photo(image_id)
    return Shot(image_id, score, verdict, photo, album.heat(image_id, label), trouble)


def _shrink(image: "Image.Image") -> "Image.Image":
    small = image.copy()
    small.thumbnail((_SIDE, _SIDE))
    return small


def _data_uri(image: "Image.Image") -> str:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def png_uri(content: bytes) -> str:
    """Data URI of a PNG file's content."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def describe_choice(judgement: Judgement) -> str:
    """Which classes the gallery shows, in a sentence."""
    total = len(judgement.table.label_names)
    if total <= MAX_CLASSES:
        return f"All {total} classes, rarest in training first."
    return (
        f"{len(gallery_classes(judgement))} of {total:,} classes, rarest in training first: of each group the "
        f"{CLASSES_OF_A_GROUP} with the lowest average precision."
    )


__all__ = ["ClassShots", "PhotoAlbum", "Shot", "describe_choice", "gallery_classes", "gather_shots", "png_uri"]
