"""Files under construction that a killed writer left are deleted; others of such a name are not."""

from __future__ import annotations

import numpy as np
import pytest

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.files import is_temporary, temporary_name
from physgym.sample import Field, SampleSpec

SPEC = SampleSpec([Field("x", (), np.dtype("f4"), "input")])
NAMES = ["training-00000.h5", "validation-00003.h5", "dataset.json", "constants.npz"]


def written(folder, step, **kwargs):
    with SampleWriter(folder, SPEC, **kwargs) as writer:
        writer.append({"x": np.zeros(1, "f4")}, episode=np.zeros(1, int), step=np.array([step]), seed=np.zeros(1, int))


def test_what_a_killed_writer_left_is_deleted(tmp_path):
    written(tmp_path, 0)
    partition = (tmp_path / "training-00000.h5").read_bytes()
    contents = [partition, partition[:5], b"", b'{"format', b"PK\x03", b"", b"PK"]
    for name, content in zip([*NAMES[:2], NAMES[0], *NAMES[2:], *NAMES[2:]], contents, strict=True):
        temporary_name(tmp_path / name).write_bytes(content)
    written(tmp_path, 1, resume=True)
    assert not list(tmp_path.glob("*.tmp"))
    assert len(SampleDataset(tmp_path)) == 2


@pytest.mark.parametrize("name", NAMES)
def test_what_may_be_the_users_is_kept_and_named(tmp_path, name):
    written(tmp_path, 0)
    mine = {tmp_path / f".{name}-0123456789abcdef.tmp": (tmp_path / "training-00000.h5").read_bytes()}
    mine |= {temporary_name(tmp_path / name): b"years of work", tmp_path / f".{name}-{'0' * 16}.tmp": b""}
    for file, content in mine.items():
        file.write_bytes(content)
    folder = temporary_name(tmp_path / name)
    folder.mkdir()
    with pytest.warns(RuntimeWarning, match=r"0123456789abcdef\.tmp.*they are kept\. Delete them"):
        written(tmp_path, 1, resume=True)
    assert folder.is_dir()
    assert {file: file.read_bytes() for file in mine} == mine


def test_a_temporary_name_is_known_by_itself(tmp_path):
    for name in ("a", "Größe\n", "b\udc80"):
        found = temporary_name(tmp_path / name).name
        assert is_temporary(found)
        assert not is_temporary(found.replace(name, f"{name}x"))
        assert temporary_name(tmp_path / name).name != found
    assert not is_temporary(".a-0123456789abcdef.tmp")
