"""Names of what can compute the predictions of a network; `physgym.nn.engines` makes them.

This module imports nothing that takes time: the command line reads it before it knows what to do.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Engine = Literal["torch", "compiled", "onnx"]
ENGINES: Final[tuple[str, ...]] = get_args(Engine)
