"""Trained networks as files that run without physgym: programs of torch, and ONNX.

Normalization and transforms are inside, the size of a batch is free, and a JSON next to the file says what it takes and
gives. Modules that define ``NETWORK_FORMAT`` are found by `physgym.formats.registry`.
"""

from __future__ import annotations

from physgym.nn.export.network_export import export_network

__all__ = ["export_network"]
