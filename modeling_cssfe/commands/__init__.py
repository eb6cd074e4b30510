# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
"""The verbs of the command line, a file each: `register` declares the arguments, the rest calls the package."""
