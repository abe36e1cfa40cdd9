"""What is said where a simulation raises while samples are generated."""

from __future__ import annotations

import pytest

import physgym
from physgym.data.dataset import SampleDataset
from physgym.envs.spring import Spring
from physgym.errors import WorkerError


class Breaks(Spring):
    """Raises at the sixth step of all, or at a reset."""

    def __init__(self, steps: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.left = steps

    def begin(self, parameters):
        if self.left < 0:
            raise ArithmeticError("no root at the beginning")
        return super().begin(parameters)

    def advance(self, action):
        self.left -= 1
        if not self.left:
            raise ZeroDivisionError("the matrix is singular")
        return super().advance(action)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_step_the_samples_that_stay_and_the_cure_are_named(tmp_path, num_workers):
    with pytest.raises(ZeroDivisionError) as caught:
        physgym.generate(
            Breaks, tmp_path / "data", samples=20, max_steps=4, num_workers=num_workers, progress=False,
            env_kwargs={"steps": 6},
        )  # fmt: skip
    assert isinstance(caught.value, WorkerError)
    dataset = SampleDataset(tmp_path / "data")
    assert len(dataset) == 5
    first, _, rest = str(caught.value).partition("\n")
    assert first.startswith("environment 0 raised ZeroDivisionError in step 1 of episode 1 (seed ")
    assert "parameters {" in first
    assert "'stiffness': " in first
    assert first.endswith("the matrix is singular")
    assert "Traceback in the worker" in rest
    assert f"5 samples before it are complete in {tmp_path / 'data'}" in rest
    assert 'raise physgym.RejectSample("why")' in rest
    assert "--resume --allow-changed-code" in rest


def test_a_reset_that_raises_is_named(tmp_path):
    with pytest.raises(
        ArithmeticError, match=r"raised ArithmeticError in the reset of episode 0 \(seed \d+\): no root"
    ):
        physgym.generate(Breaks, tmp_path / "data", samples=20, num_workers=0, progress=False, env_kwargs={"steps": -1})
