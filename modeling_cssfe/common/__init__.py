# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""What all parts share: files, tables, figures, the machine, and trained models from their folders."""
