"""Workers whose environments differ in more than their spaces do not work for one run."""

from __future__ import annotations

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from physgym.code.env_description import identify_env
from physgym.errors import WorkerError
from physgym.protocol.messages import Ready
from physgym.vector.alike import check_alike, differing
from tests.machines.test_faults import Sized
from tests.support.machines import listening


class Meshed(Sized):
    def __init__(self, points, *files):
        super().__init__()
        self.points, self.files_read = points, [str(file) for file in files]

    def constants(self):
        return {"points": self.points}


def description(env, **fixed):
    return {"action_space": None, "code": {"classes": ["m:C"], "files": env.files_read} | identify_env(env, fixed)}


def check(there, first, launcher=None):
    worker = SimpleNamespace(ready=Ready(1, there))
    check_alike(worker, first, "than the first", launcher)


def test_equal_ones_are_alike_wherever_their_files_lie(tmp_path):
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_text("the same")
    one, other = (description(Meshed(np.arange(3), file), factor=2) for file in files)
    check(other, one)
    assert differing(other, one) == []


@pytest.mark.parametrize("points", [np.arange(1, 4), np.arange(4), np.arange(3.0)])
def test_other_constants_are_named(points):
    with pytest.raises(
        WorkerError, match=r"other constants \(points: array of .* in place of points: .*than the first"
    ):
        check(description(Meshed(points)), description(Meshed(np.arange(3))))


def test_other_contents_are_an_error_or_a_warning(tmp_path):
    files = [tmp_path / name for name in ("one", "two")]
    found = []
    for file in files:
        file.write_text(file.name)
        found.append(description(Meshed(np.arange(3), file)))
    with pytest.raises(WorkerError, match="other contents of the files that they read"):
        check(*found)
    with (
        listening(tmp_path, on_difference="warn") as reception,
        pytest.warns(RuntimeWarning, match="other contents .* was let in"),
    ):
        check(*found, reception)


def test_spaces_and_unknown_parts_count():
    first = description(Meshed(np.arange(3)))
    with pytest.raises(WorkerError, match="other spaces than the first"):
        check({**first, "action_space": 3}, first)
    with pytest.raises(WorkerError, match=r"another build \(7 in place of nothing\)"):
        check({**first, "code": {**first["code"], "build": ["7"]}}, first)


def test_constants_that_cannot_be_made_are_said_elsewhere():
    class Broken(Meshed):
        def constants(self):
            raise ValueError

    assert identify_env(Broken(None), {}) == {}
    assert identify_env(gym.make("CartPole-v1"), {"a": 1}) == {"fixed": ["a=1"]}
