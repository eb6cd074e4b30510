# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""From files in any layout to records: COCO, VOC, YOLO, image folders, tables; `load_images` chooses."""
