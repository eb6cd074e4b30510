# Copyright 2026 The CSSFE package authors. Licensed under the Apache License, Version 2.0.
from .convert import convert_released_state_dict


__all__ = ["convert_released_state_dict"]
