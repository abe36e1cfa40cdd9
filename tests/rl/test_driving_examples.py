"""The examples of driving, small."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from physgym import SampleDataset

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
def test_a_network_that_imitates_a_recording_drives(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(EXAMPLES / "imitation.py"))["main"]
    driven = main(out="imitation", episodes=4, steps=300, epochs=25)
    assert min(driven) > 40  # the rule gets to 70 m, and one that does nothing to 0
    assert len(SampleDataset("imitation/to_imitate")) == 1200


@pytest.mark.slow
def test_an_agent_learns_in_the_simulator_that_stands_in_for_donkeycar(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(EXAMPLES / "donkeycar.py"))["main"]
    trainer = main(out="donkeycar", steps=60, learning_starts=20, batch_size=8)
    assert trainer.agent.steps >= 60
    recorded = SampleDataset("donkeycar/replay")
    assert len(recorded) > 55
    assert recorded.source["real_time"] is True
    assert {"info/cte", "info/speed", "info/lap_count"} <= set(recorded.spec)


@pytest.mark.slow
def test_numbers_of_the_command_line_are_numbers(monkeypatch):
    asked = {}

    class Asked(Exception):
        pass

    def trainer(*_, **arguments):
        asked.update(arguments)
        raise Asked

    monkeypatch.setattr("physgym.rl.agent_trainer.AgentTrainer", trainer)
    monkeypatch.setattr("sys.argv", ["donkeycar.py", "out", "60"])
    with pytest.raises(Asked):
        runpy.run_path(str(EXAMPLES / "donkeycar.py"), run_name="__main__")
    assert (asked["session"], asked["steps"], asked["report_every"]) == ("out", 60, 3)


def test_examples_are_short():
    for name in ("imitation.py", "donkeycar.py"):
        assert len((EXAMPLES / name).read_text().splitlines()) <= 40
