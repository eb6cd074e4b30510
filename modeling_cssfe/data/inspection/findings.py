# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What would go wrong in training: the rules that turn an inspection into findings.

Error: `cssfe train` stops, or there is nothing to train on. Warning: training runs, or after a choice of yours, and its
figures may mislead. Note: good to know.
"""

from collections.abc import Iterator, Sequence

from .inspect import SEVERITIES, DuplicateImages, Finding, Inspection, SplitInspection


_TINY = 5  # training images of a class below which its average precision is mostly luck
_MANY_UNKNOWN = 0.5  # share of a class's labels
_MANY_UNLABELED = 0.5  # share of a split's images
_IMPLIED_MIN = 10  # images of a class before "never without" another is more than chance
_LISTED = 5


def find_problems(inspection: Inspection, whole: bool = True) -> list[Finding]:
    """Apply all rules.

    Args:
        inspection: With everything but findings.
        whole: All splits were looked at, so that a missing one is missing.

    Returns:
        Errors first, then warnings, then notes; within these, in the order of the rules.
    """
    found = [*(_splits(inspection) if whole else ()), *_names(inspection), *_training(inspection), *_groups(inspection)]
    for split, entry in inspection.splits.items():
        found += [*_labels(inspection, split, entry), *_images(split, entry)]
    for copies in inspection.duplicates:
        found.append(_copies(copies))
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _splits(inspection: Inspection) -> Iterator[Finding]:
    rules = (
        ("train", "training", "error", "nothing to train on", "name a file, folder or split column train"),
        (
            "validation",
            "validation",
            "warning",
            "training chooses its best checkpoint on it",
            "carve one from the training images; never choose on test",
        ),
        ("test", "test", "note", "figures will come from validation", "keep images that take no part in training"),
    )
    for split, kind, severity, why, mend in rules:
        if split not in inspection.splits:
            yield Finding(f"no_{kind}_split", severity, f"there is no split {split!r}: {why}", mend, 1)


def _names(inspection: Inspection) -> Iterator[Finding]:
    alike: dict[str, list[str]] = {}
    for name in inspection.label_names:
        alike.setdefault("".join(name.casefold().replace("_", " ").replace("-", " ").split()), []).append(name)
    yield from _listed(
        "similar_names",
        "warning",
        [" / ".join(map(repr, names)) for names in alike.values() if len(names) > 1],
        "class names that differ only in case, spaces, '_' or '-'",
        "if they mean the same, write them in one way: their images are split between classes now",
    )


def _training(inspection: Inspection) -> Iterator[Finding]:
    split, names = inspection.group_split, inspection.label_names
    entry = inspection.splits.get(split)
    if entry is None or split != "train":
        return
    yield from _listed(
        "class_without_training_image",
        "error",
        [name for name, count in zip(names, entry.class_counts, strict=True) if count == 0],
        f"classes without an image in {split!r}",
        "add images of them, or take these labels out of all splits",
    )
    yield from _listed(
        "tiny_class",
        "note",
        [f"{name} {count}" for name, count in zip(names, entry.class_counts, strict=True) if 0 < count < _TINY],
        f"classes with fewer than {_TINY} images in {split!r}",
        "expect figures that change much with the seed; more images of these classes help most",
    )
    known = [entry.num_images - unknown for unknown in entry.unknown_counts]
    yield from _listed(
        "class_in_every_image",
        "warning",
        [name for name, count, of in zip(names, entry.class_counts, known, strict=True) if count == of > 1],
        f"classes in every image of {split!r} whose label is known",
        "add images without them: nothing tells such a class from the rest",
    )
    yield from _co_occurrence(inspection, split, entry)


def _co_occurrence(inspection: Inspection, split: str, entry: SplitInspection) -> Iterator[Finding]:
    names, counts = inspection.label_names, entry.class_counts
    if len(entry.labels_per_image) <= 2:
        yield Finding(
            "single_label",
            "warning",
            f"no image of {split!r} has more than one label: this is no multi-label set",
            "if images show several classes, label them all; else a single-label classifier is the better tool",
            entry.num_images,
        )
    yield from _listed(
        "identical_labels",
        "warning",
        [
            f"{names[first]} = {names[second]} in {count:,} images"
            for first, second, count in entry.pairs
            if counts[first] == counts[second] == count
        ],
        f"pairs of classes in exactly the same images of {split!r}",
        "merge them, or add images with one alone: no classifier can tell them apart",
    )
    yield from _listed(
        "implied_labels",
        "note",
        [
            f"{names[inner]} ({counts[inner]:,}) never without {names[outer]}"
            for first, second, count in entry.pairs
            for inner, outer in ((first, second), (second, first))
            if _IMPLIED_MIN <= counts[inner] == count < counts[outer]
        ],
        f"classes that {split!r} shows only beside another",
        "right for a kind and its genus; else images of the one alone would help",
    )


def _groups(inspection: Inspection) -> Iterator[Finding]:
    if inspection.group_split != "train":
        return
    empty = [group for group in ("head", "medium", "tail") if group not in inspection.groups]
    if empty:
        yield Finding(
            "empty_group",
            "note",
            f"no class is {' or '.join(empty)} with head_min={inspection.head_min} and tail_max={inspection.tail_max}",
            "set head_min and tail_max to the counts of this data, if figures by group matter",
            len(empty),
            tuple(empty),
        )


def _labels(inspection: Inspection, split: str, entry: SplitInspection) -> Iterator[Finding]:
    names, images = inspection.label_names, entry.num_images
    if split != "train":
        # A class that training lacks as well is one finding, not one a split.
        trained_on = inspection.group_counts if inspection.group_split == "train" else [1] * len(names)
        both = zip(names, entry.class_counts, trained_on, strict=True)
        yield from _listed(
            "class_without_positive",
            "warning",
            [name for name, count, trained in both if count == 0 < trained],
            f"classes without an image in {split!r}, hence without average precision there",
            "move or add images of them; figures leave these classes out",
        )
    if entry.unlabeled:
        yield Finding(
            "unlabeled_image",
            "warning" if entry.unlabeled > _MANY_UNLABELED * images else "note",
            f"images of {split!r} without a label, negatives of every class: {_part(entry.unlabeled, images)}",
            "if nobody has labelled them, mark their labels as unknown (empty_cells) or leave them out",
            entry.unlabeled,
        )
    unknown = sum(entry.unknown_counts)
    if unknown:
        yield Finding(
            "unknown_labels",
            "note",
            f"unknown labels in {split!r}: {_part(unknown, images * len(names))}; images without any known label: "
            f"{entry.fully_unknown:,}",
            "none needed: unknown labels take no part in losses and metrics",
            unknown,
        )
    yield from _listed(
        "mostly_unknown_class",
        "warning",
        [
            f"{name} {_part(count, images)}"
            for name, count in zip(names, entry.unknown_counts, strict=True)
            if count > _MANY_UNKNOWN * images
        ],
        f"classes unknown in more than half of {split!r}",
        "judge them with care, or label more images",
    )
    yield from _listed(
        "repeated_id",
        "warning",
        entry.repeated_ids,
        f"image ids of several images in {split!r}",
        "give each image its own, or name another column with id_column: predictions are told apart by it",
    )


def _images(split: str, entry: SplitInspection) -> Iterator[Finding]:
    images = entry.images
    if images is None:
        return
    yield from _listed(
        "unreadable_image",
        "error",
        [image_id for image_id, _ in images.unreadable],
        f"images of {split!r} that cannot be read",
        "replace or remove them, or let training skip them (skip_unreadable_images=true)",
    )
    rules = (
        (images.large, "large_image", "of more than 16 million pixels, slow to load", "shrink them once"),
        (images.small, "small_image", "with a side under 32 pixels, enlarged many times", "use larger ones"),
        (images.elongated, "elongated_image", "over 3 times as long as wide, squeezed to a square", "cut or pad them"),
        (images.animated, "animated_image", "with several frames, of which the first is used", "store the wanted one"),
    )
    for count, kind, what, mend in rules:
        if count:
            message = f"images of {split!r} {what}: {_part(count, images.num_checked)}"
            yield Finding(kind, "note", message, mend, count)
    if len(images.modes) > 1:
        yield Finding(
            "mixed_modes",
            "note",
            f"pixel modes of {split!r}, all turned into RGB: "
            + ", ".join(f"{mode} {count:,}" for mode, count in images.modes.items()),
            "check that the mode does not give a class away, as if all images of it were grey",
            len(images.modes),
        )
    readable = images.num_checked - len(images.unreadable)
    if images.num_sizes == 1 and readable > 1 and images.width is not None and images.height is not None:
        yield Finding(
            "one_size",
            "note",
            f"all images of {split!r} are {images.width[0]} x {images.height[0]} pixels",
            "if they were resized to it, an image_size above it gains nothing",
            readable,
        )


def _copies(copies: DuplicateImages) -> Finding:
    first, second = copies.splits
    kind = "duplicate_image" if copies.exact else "look_alike_image"
    what = "are copies, byte for byte, of" if copies.exact else "look like"
    sign = "=" if copies.exact else "~"
    count, differ = len(copies.pairs), copies.different_labels
    examples = tuple(f"{other} {sign} {one}" for one, other in copies.pairs)
    shown = ", ".join(examples[:_LISTED]) + (", ..." if count > _LISTED else "")
    but = f", {differ:,} of them with other labels" if differ else ""
    message = f"{count:,} of {second!r} {what} images of {first!r}{but} ({shown})"
    if first != second:
        mend = f"remove them from one of the two: {second!r} would be judged by what {first!r} has shown"
        return Finding(f"{kind}_across_splits", "warning", message, mend, count, examples)
    mend = "keep one of each, with the right labels" if differ else "keep one of each"
    return Finding(kind, "warning" if differ else "note", message, mend, count, examples)


def _listed(kind: str, severity: str, examples: Sequence[str], what: str, mend: str) -> Iterator[Finding]:
    """Yield a finding that counts its examples and shows the first few, if there are any."""
    if examples:
        shown = ", ".join(examples[:_LISTED]) + (", ..." if len(examples) > _LISTED else "")
        yield Finding(kind, severity, f"{what}: {len(examples):,} ({shown})", mend, len(examples), tuple(examples))


def _part(count: int, whole: int) -> str:
    return f"{count:,} ({100 * count / whole:.1f} %)"


__all__ = ["find_problems"]
