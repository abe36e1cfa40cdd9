"""Files of tensors: the library reads what was written, bit for bit, and the checksum is that of the file."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from physgym.training.checkpoint_manifests import digest_of
from physgym.training.state_codec import DTYPES, encode
from physgym.training.tensor_file import NAMES, save_file


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_each_dtype_that_a_checkpoint_takes_comes_back_bit_for_bit(tmp_path):
    assert set(NAMES) == DTYPES
    numbers = torch.tensor([[1.5, -0.0, float("nan")], [float("inf"), 3.0, 250.0]])
    tensors = {f"a/{dtype}": numbers.nan_to_num(0, 0).abs().to(dtype) for dtype in DTYPES} | {"nan": numbers}
    found = save_file(tensors, tmp_path / "t")
    assert found == digest_of(tmp_path / "t")
    read = load_file(tmp_path / "t")
    assert {name: bits(read[name]) for name in tensors} == {name: bits(tensor) for name, tensor in tensors.items()}


def test_tensors_come_back_whatever_their_memory_and_shape_are(tmp_path):
    rows = torch.arange(6.0).reshape(2, 3)
    turned = torch.tensor([1 + 2j, 3 - 1j], dtype=torch.complex64)
    tensors = {
        "rows": rows,
        "shared": rows[1:],
        "transposed": rows.T,
        "expanded": torch.ones(1).expand(4),
        "single": torch.full((1,), 3.0, dtype=torch.float64).as_strided((1,), (0,)),
        "scalar": torch.tensor(7, dtype=torch.int8),
        "empty": torch.zeros(0, 3),
        "conjugated": turned.conj(),
        "negated": turned.conj().imag,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "é~ 1": torch.zeros(1, dtype=torch.bool),
    }
    assert save_file(tensors, tmp_path / "t") == digest_of(tmp_path / "t")
    read = load_file(tmp_path / "t")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor.detach()), name
    assert save_file({}, tmp_path / "none") == digest_of(tmp_path / "none")
    assert load_file(tmp_path / "none") == {}


def test_larger_numbers_stand_first_so_that_readers_may_map_them(tmp_path):
    save_file({"a": torch.zeros(3, dtype=torch.int8), "b": torch.zeros(2, dtype=torch.float64)}, tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    assert data.index(b'"b"') < data.index(b'"a"')


def test_a_file_that_is_there_stays(tmp_path):
    (tmp_path / "t").write_text("mine")
    with pytest.raises(FileExistsError):
        save_file({}, tmp_path / "t")
    assert (tmp_path / "t").read_text() == "mine"


def test_a_state_is_copied_unless_its_memory_may_be_shared():
    weights = torch.zeros(3)
    _, copied = encode({"w": weights})
    _, shared = encode({"w": weights}, shared=True)
    weights += 1
    assert copied["state/w"].tolist() == [0, 0, 0]
    assert shared["state/w"].data_ptr() == weights.data_ptr()
