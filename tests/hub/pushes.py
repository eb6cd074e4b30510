"""What the tests of publishing share."""

from loopback import TOKEN, USER


NAME = f"{USER}/model"
CODE = [
    "backbone",
    "checks",
    "configuration",
    "discriminant",
    "image_processing",
    "layers",
    "loss",
    "modeling",
    "parts",
    "presets",
]
SENT = {
    ".gitattributes", "README.md", "config.json", "model.safetensors", "preprocessor_config.json", "results.json",
    *(f"{name}_cssfe.py" for name in CODE),
}  # fmt: skip


def only_line(text: str) -> str:
    """Return the one line of `text` that tells of an error."""
    lines = [line for line in text.splitlines() if "error:" in line]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert TOKEN not in text
    return lines[0]
