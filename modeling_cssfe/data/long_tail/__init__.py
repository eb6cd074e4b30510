# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""A long-tailed training set drawn from any data set."""
