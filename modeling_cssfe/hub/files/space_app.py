# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The page of a CSSFE model as a Hugging Face Space; it also runs anywhere else with `python app.py`."""

from pathlib import Path

from modeling_cssfe.demo import build_demo


# Gradio's Spaces look for this name.
demo = build_demo(Path(__file__).resolve().parent / "model")

if __name__ == "__main__":
    demo.launch()
