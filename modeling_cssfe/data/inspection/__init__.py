# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What a data set holds, and what would go wrong in training."""
