"""Files of tensors in the format of safetensors, written out of the memory in which the tensors are.

The library asks for tensors whose memory nobody else has, so that all have to be copied, and leaves the checksum to a
reader of the file: a checkpoint would take half as long again, and twice the memory. Files are read by the library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

NAMES = {  # of dtypes, in the header
    torch.bool: "BOOL",
    **{getattr(torch, f"int{bits}"): f"I{bits}" for bits in (8, 16, 32, 64)},
    **{getattr(torch, f"uint{bits}"): f"U{bits}" for bits in (8, 16, 32, 64)},
    **{getattr(torch, f"float{bits}"): f"F{bits}" for bits in (16, 32, 64)},
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
}
TOGETHER = 1 << 18  # bytes of small tensors that are written together


def save_file(tensors: Mapping[str, Tensor], file: Path) -> list[Any]:
    """Write tensors to a new file.

    Args:
        tensors: Dense tensors of the dtypes in `NAMES` by name, on any device; some may share their memory.
        file: The file.

    Returns:
        The size and the SHA-256 of the file, as `physgym.training.checkpoint_manifests.digest_of` finds them.

    Raises:
        OSError: The disk refuses.
    """
    # larger numbers first, so that each begins at a multiple of its size
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    described, end = {}, 0
    for name in order:
        tensor, start = tensors[name], end
        end += tensor.nbytes
        described[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(described, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    checksum, size = hashlib.sha256(), 8 + len(header) + end
    with file.open("xb", buffering=TOGETHER) as stream:
        for part in (len(header).to_bytes(8, "little"), header, *(tensors[name] for name in order)):
            data: Any = _bytes_of(part) if isinstance(part, Tensor) else part
            checksum.update(data)
            stream.write(data)
    return [size, checksum.hexdigest()]


def _bytes_of(tensor: Tensor) -> Any:
    """Return the numbers of a tensor in the order of its axes, in its own memory where they lie there so."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    numbers = plain.as_strided((plain.numel(),), (1,))  # that of a single number may have any stride
    return numbers.view(torch.uint8).numpy().data
