# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What networks trained on a long tail see: where their maps point, and how strongly."""
