"""A dataset whose content follows from its length, for tests that break off its writing."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.layout import PartitionLayout
from physgym.data.writer import SampleWriter
from physgym.errors import DatasetError
from physgym.sample import Field, SampleSpec
from tests.support import sizes  # noqa: F401  # in processes of their own too

SPEC = SampleSpec(
    [
        Field("x", (2, 3), np.dtype("f4"), "input", "m"),
        Field("group/flags", (4,), np.dtype("?"), "additional"),
    ]
)
PARAMETERS = SampleSpec([Field("direction", (3,), np.dtype("f4"), "parameter", "m")])
TOTAL = 6  # samples, where nothing else is said
LENGTH = 3  # samples per episode, at its even steps; what is rejected lies between them


def samples(i: np.ndarray) -> dict[str, np.ndarray]:
    """The i-th samples."""
    return {
        "x": (i[:, None, None] + np.arange(6).reshape(2, 3) / 10).astype("f4"),
        "group/flags": (i[:, None] >> np.arange(4)) & 1 == 1,
    }


def names(i: np.ndarray) -> dict[str, np.ndarray]:
    """Where the i-th samples come from."""
    episode = i // LENGTH
    return {"episode": episode, "step": 2 * (i % LENGTH), "seed": seeds(episode)}


def seeds(episode: np.ndarray) -> np.ndarray:
    return (2**63 + 11 * episode.astype("u8")).astype("u8")


def parameters(episode: int) -> dict[str, np.ndarray]:
    return {"direction": np.arange(3, dtype="f4") + episode}


def rejects(episode: int) -> list[int]:
    """Steps of an episode whose samples are rejected: none, one in the middle, one after the last, or both."""
    return [step for step, every in ((1, 2), (5, 3)) if episode % every == 0]


def rejected(episode: int, step: int) -> tuple[dict[str, np.ndarray], str]:
    """The sample of a rejected step, and the reason."""
    return samples(np.array([1000 * episode + step])), f"diverged in episode {episode}, step {step}"


def produce(
    folder: Path,
    acknowledge: Callable[[int], None] = lambda count: None,
    *,
    total: int = TOTAL,
    batch: int = 2,
    commit_every: int = 2,
    seal: bool = True,
    side: bool = False,
    per_file: int = 4,
    **options,
) -> None:
    """Write the dataset's first samples, from after the last that is there, as generation does.

    Args:
        folder: The dataset.
        acknowledge: Called with the number of samples that a commit has returned for.
        total: How many samples there shall be.
        batch: Samples per append.
        commit_every: Appends per commit.
        seal: Whether to close for good.
        side: With parameters of episodes and rejected samples.
        per_file: Samples per partition.
        **options: Of `SampleWriter`.
    """
    layout = PartitionLayout(SPEC, PARAMETERS, True) if side else PartitionLayout(SPEC)
    options |= {"parameters": layout.parameters, "rejected": layout.rejected}
    # neither time nor size commits by itself, so that the calls of a run are the same every time
    options = {"resume": True, "max_file_size": per_file * layout.row_nbytes, "commit_interval": 3600.0, **options}
    with SampleWriter(folder, SPEC, **options) as writer:
        begun = writer.last
        done = 0 if begun is None else LENGTH * begun[0] + begun[1] // 2 + 1
        assert writer.count == writer.committed == done
        announced = -1  # the last episode whose parameters are there; those of the present one are given again
        for number, start in enumerate(range(done, total, batch)):
            i = np.arange(start, min(total, start + batch))
            if side:
                for one in i.tolist():
                    announced = _write_side_rows(writer, one, announced, begun)
            writer.append(samples(i), **names(i))
            if number % commit_every == commit_every - 1:
                writer.commit()
                assert writer.committed == writer.count == i[-1] + 1
                acknowledge(writer.committed)
        if side:
            _write_side_rows(writer, total, announced, begun, only_rejects=True)
        writer.close(seal=seal)
        acknowledge(total)


def _write_side_rows(writer: SampleWriter, i: int, announced: int, begun, *, only_rejects: bool = False) -> int:
    """What lies between sample i - 1 and sample i."""
    episode, place = divmod(i, LENGTH)
    # rejects at step 1 come before the sample at step 2, those at step 5 before the next episode
    before = [(episode, 1)] if place == 1 else [(episode - 1, 5)] if place == 0 else []
    for name in before:
        if name[1] in rejects(max(0, name[0])) and name[0] >= 0 and (begun is None or name > begun):
            sample, reason = rejected(*name)
            at = np.array([name[0]])
            writer.add_rejected(sample, [reason], episode=at, step=np.array([name[1]]), seed=seeds(at))
    if episode > announced and not only_rejects:
        at = np.array([episode])
        writer.add_parameters(
            {name: value[None] for name, value in parameters(episode).items()}, episode=at, seed=seeds(at)
        )
        return episode
    return announced


def check(folder: Path, acknowledged: int, *, side: bool = False, mode: str = "training") -> int:
    """What is committed is right, whole and there once; the number of samples."""
    try:
        dataset = SampleDataset(folder, mode=mode)
    except DatasetError as error:
        if acknowledged or not re.search(f"no dataset|holds no {mode} samples", str(error)):
            raise
        return 0
    count = len(dataset)
    assert count >= acknowledged
    i = np.arange(count)
    got = dataset[:]
    for name, want in samples(i).items():
        np.testing.assert_array_equal(got[name], want)
    for name, want in names(i).items():
        np.testing.assert_array_equal(dataset.index(name), want)
    dataset.verify()
    if side:
        _check_parameters(dataset, (count - 1) // LENGTH)
        _check_rejected(dataset, count)
    return count


def _check_parameters(dataset: SampleDataset, last: int) -> None:
    assert dataset.parameters is not None
    episodes = dataset.parameter_episodes.tolist()
    assert len(set(episodes)) == len(episodes)
    assert episodes[: last + 1] == list(range(last + 1))  # those of a following episode may be there already
    for name, column in dataset.parameters.items():
        np.testing.assert_array_equal(column, np.stack([parameters(episode)[name] for episode in episodes]))


def _check_rejected(dataset: SampleDataset, count: int) -> None:
    found = dataset.rejected
    there = [] if found is None else list(zip(found.episode.tolist(), found.step.tolist(), strict=True))
    assert len(set(there)) == len(there)
    episode, step = (int(names(np.array([count - 1]))[name][0]) for name in ("episode", "step"))
    due = [(e, s) for e in range(episode + 1) for s in rejects(e) if (e, s) < (episode, step)]
    assert there[: len(due)] == due
    for k, name in enumerate(there):
        sample, reason = rejected(*name)
        text = found.reasons[k]
        assert (text.decode() if isinstance(text, bytes) else text) == reason
        for field, want in sample.items():
            np.testing.assert_array_equal(found.samples[field][k], want[0])
