# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""Data sets by name: LT-VOC, LT-COCO, LT-Digits, ODIR-5K, NUS-WIDE and sets like CXR-LT."""
