# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a stranger's machine does with a published model; run by `modeling_cssfe.hub.round_trip` in a fresh process.

Usage: `python -I round_trip_child.py MODEL_FOLDER WORK_FOLDER`. WORK_FOLDER holds `image.png`; `outputs.safetensors`
and `scores.json` are written into it.
"""

import json
import sys
from pathlib import Path


class _WithoutThePackage:
    """A finder of modules that does not find this package, wherever it is installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        """Find any module but the package's."""
        return None if name.partition(".")[0] == "modeling_cssfe" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def main(folder: str, work: Path) -> None:
    """Load the model by the code that lies beside it, and classify the image."""
    sys.meta_path[:] = [_WithoutThePackage(finder) for finder in sys.meta_path]

    import torch
    from PIL import Image
    from safetensors.torch import save_file
    from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

    torch.set_num_threads(1)
    model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
    image = Image.open(work / "image.png").convert("RGB")
    pixels = processor(image, return_tensors="pt")["pixel_values"].to(model.dtype)
    with torch.no_grad():
        logits = model(pixels).logits
    save_file({"pixel_values": pixels.contiguous(), "logits": logits.contiguous()}, work / "outputs.safetensors")
    classify = pipeline("image-classification", model=model, image_processor=processor)
    scores = classify(image, top_k=model.config.num_labels)
    (work / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    if "modeling_cssfe" in sys.modules:
        raise RuntimeError("the package was imported, so this says nothing about a machine without it")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
