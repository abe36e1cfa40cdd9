"""Streams that report every step, rejected ones included, however many are taken at once."""

from __future__ import annotations

import itertools

import pytest

from physgym.errors import ConfigError
from physgym.generation.named_samples import NamedSamples
from physgym.generation.stream import SampleStream
from tests.support.patterns import Patterned, expected
from tests.support.workers import forked_workers  # noqa: F401 - a fixture of all tests here


def steps_of(stream: SampleStream, count: int) -> list[tuple[int, int, float, str, bool]]:
    """What there is to know of the first steps."""
    episodes = ((episode, stream.episode_seed(episode)) for episode in itertools.count())
    every = (step for episode, seed in episodes for step in expected(seed, episode))
    return list(itertools.islice(every, count))


def read(rows: NamedSamples) -> list[tuple[int, int, float, str, bool]]:
    """What is taken says of each of its steps; each sample must be that of its step."""
    told = rows.reports
    assert told is not None
    reasons = dict(zip(told.rejected.tolist(), told.reasons, strict=True))
    ends = set(zip(rows.ending_names.episodes.tolist(), rows.ending_names.steps.tolist(), strict=True))
    names = list(zip(rows.names.episodes.tolist(), rows.names.steps.tolist(), strict=True))
    assert ends <= set(names)
    given = [reward for place, reward in enumerate(told.rewards.tolist()) if place not in reasons]
    assert rows.samples["x"][:, 0].tolist() == given
    return [
        (*name, reward, reasons.get(place, ""), name in ends)
        for place, (name, reward) in enumerate(zip(names, told.rewards.tolist(), strict=True))
    ]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_every_step_is_taken_once_and_in_order(limit):
    taken = []
    with SampleStream(Patterned, num_workers=0, seed=2, reports=True) as stream:
        stream.expect(30)
        while len(taken) < 30:
            rows = stream.take(min(limit, 30 - len(taken)))
            assert 1 <= len(rows) <= limit
            assert stream.position == rows.names.last
            taken += read(rows)
        assert taken == steps_of(stream, 30)
        assert any(reason for *_, reason, _ in taken)


def test_workers_make_the_same_steps():
    with SampleStream(Patterned, num_envs=3, num_workers=2, seed=2, reports=True) as stream:
        taken = [step for _ in range(10) for step in read(stream.take(4))]
        assert taken == steps_of(stream, len(taken))


def test_a_stream_goes_on_behind_any_step():
    with SampleStream(Patterned, num_workers=0, seed=2, reports=True) as stream:
        every = steps_of(stream, 20)
        for place, (episode, step, *_) in enumerate(every[:12]):
            stream.load_state_dict({**stream.state_dict(), "position": [episode, step]})
            stream.expect(5)
            assert read(stream.take(5)) == every[place + 1 : place + 1 + len(stream.drawn)]


def test_no_step_is_made_that_is_not_wanted():
    with SampleStream(Patterned, num_workers=0, seed=2, reports=True) as stream:
        stream.expect(5)
        taken = 0
        while taken < 5:
            taken += len(stream.take(100))
        assert taken == 5


def test_whole_episodes_of_rejected_steps_are_no_error():
    class Hopeless(Patterned):
        def step(self, action):
            return *super().step(action)[:4], {"rejected": "never"}

    with SampleStream(Hopeless, num_workers=0, seed=2, max_rejects=6, reports=True) as stream:
        rows = [stream.take(20) for _ in range(20)]
    assert [len(part.reports.rejected) for part in rows] == [len(part) for part in rows]
    assert sum(map(len, rows)) >= 20


def test_reports_are_not_stored(tmp_path):
    with pytest.raises(ConfigError, match="stores samples, and no reports of steps"):
        SampleStream(Patterned, path=tmp_path / "d", num_workers=0, reports=True)
    assert not (tmp_path / "d").exists()
