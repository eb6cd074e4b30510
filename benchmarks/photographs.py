"""A data set's encoded images and labels as one safetensors file, which travels to a machine without `datasets`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


@dataclass
class Photographs:
    """Encoded images `{split: [bytes]}`, labels `{split: (N, C)}`, and names and training counts of the classes."""

    images: dict[str, list[bytes]]
    labels: dict[str, np.ndarray]
    label_names: list[str]
    class_counts: list[int]

    @classmethod
    def load(cls, source: str, splits: tuple[str, ...] = ("train", "validation")) -> Photographs:
        """Read what `save` wrote, or anything that `load_images` accepts."""
        if Path(source).suffix == ".safetensors":
            return cls._read(source)
        import datasets

        from modeling_cssfe.data import class_statistics, label_matrix, label_names_of, load_images

        loaded = load_images(source)
        names = label_names_of(loaded[splits[0]])
        images = {}
        for split in splits:
            encoded = loaded[split].select_columns("image").cast_column("image", datasets.Image(decode=False))
            images[split] = [entry["image"]["bytes"] or Path(entry["image"]["path"]).read_bytes() for entry in encoded]
        labels = {split: np.asarray(label_matrix(loaded[split]), dtype=np.int8) for split in splits}
        return cls(images, labels, names, list(class_statistics(loaded[splits[0]], names).class_counts))

    def save(self, file: Path) -> None:
        """Write one file."""
        tensors = {}
        for split, images in self.images.items():
            tensors[f"{split}.bytes"] = np.frombuffer(b"".join(images), dtype=np.uint8)
            tensors[f"{split}.sizes"] = np.array([len(image) for image in images], dtype=np.int64)
            tensors[f"{split}.labels"] = self.labels[split]
        metadata = {"label_names": json.dumps(self.label_names), "class_counts": json.dumps(self.class_counts)}
        temporary = file.with_suffix(".tmp")
        save_file(tensors, temporary, metadata=metadata)
        temporary.replace(file)

    @classmethod
    def _read(cls, file: str) -> Photographs:
        images, labels = {}, {}
        with safe_open(file, framework="numpy") as archive:
            metadata = archive.metadata()
            for key in archive.keys():  # noqa: SIM118 - the archive is no mapping
                split, kind = key.rsplit(".", 1)
                if kind == "labels":
                    labels[split] = archive.get_tensor(key)
                elif kind == "sizes":
                    ends = archive.get_tensor(key).cumsum()
                    data = archive.get_tensor(f"{split}.bytes")
                    pieces = np.split(data, ends[:-1])
                    images[split] = [piece.tobytes() for piece in pieces]
        return cls(images, labels, json.loads(metadata["label_names"]), json.loads(metadata["class_counts"]))


__all__ = ["Photographs"]
