"""Results of a session that was run again, next to those of its record."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.errors import ConfigError, DatasetError
from physgym.experiment.recorded_samples import SHOWN, RecordedSamples
from physgym.files import short
from physgym.real_time import SOURCE

LISTED = 20  # packages of another version that are named
TIMES = ("seconds", "_ms", "_per_second")  # ends of names of results that are times, and never the same


@dataclass(frozen=True)
class Comparison:
    """Results of a session that was run again.

    Attributes:
        session: The new session.
        metrics: Values then and now, by name; those of times are left out.
        dataset: Hashes of the samples then and now, None where there are none.
        weights: Hashes of the final weights then and now, None where there are none.
        where: Of which samples and weights these are the hashes: a text each, by "samples" and "weights".
        read: The samples that the session was made from, a line each.
        differences: What else is different: versions, machine.
        statistics: Mean and standard deviation then and now, by field, where samples of a simulator in real time were
            made again; None where all is to be the same.
    """

    session: Path
    metrics: Mapping[str, tuple[Any, Any]]
    dataset: tuple[str | None, str | None]
    weights: tuple[str | None, str | None]
    where: Mapping[str, str] = field(default_factory=dict)
    read: tuple[str, ...] = field(default=())
    differences: tuple[str, ...] = field(default=())
    statistics: Mapping[str, tuple[Any, Any]] | None = None

    @property
    def equal(self) -> bool:
        """Return whether metrics, samples and weights are the same, bit for bit; in real time, the fields alone."""
        if self.statistics is not None:
            return all(None not in pair for pair in self.statistics.values())
        return all(then == now for then, now in (*self.metrics.values(), self.dataset, self.weights))

    @classmethod
    def of(
        cls,
        session: Path,
        again: Path,
        then: Mapping[str, Any],
        now: Mapping[str, Any],
        samples: RecordedSamples,
    ) -> Self:
        """Compare two runs by their records.

        Args:
            session: The session.
            again: The new one.
            then: Record of the run of the session.
            now: Record of that of the new one.
            samples: Where its samples were found.

        Raises:
            ConfigError: Samples of a simulator in real time cannot be read.
        """
        results = {name: (then["results"].get(name), now["results"].get(name)) for name in then["results"]}
        results |= {name: (None, value) for name, value in now["results"].items() if name not in results}
        where = {"weights": f"{short(str(again / 'networks'))} compared with the record of {short(str(session))}"}
        if now["dataset"]:
            path = now["dataset"]["path"]
            made = Path(path).is_relative_to(again)
            where["samples"] = f"{'made in' if made else 'read from'} {short(path)}"
        return cls(
            again,
            {name: pair for name, pair in results.items() if not name.endswith(TIMES)},
            (_hash(then), _hash(now)),
            (then["weights"], now["weights"]),
            where,
            tuple(samples.said),
            tuple(_differences(then, now)),
            _statistics(then, now, samples),
        )

    def __str__(self) -> str:
        lines = _table("", {name: (_figure(a), _figure(b), _difference(a, b)) for name, (a, b) in self.metrics.items()})
        lines += self.read
        if self.statistics is not None:
            lines += [
                "samples: of a simulator in real time, whose bytes nobody promises; mean and deviation of a field:"
            ]
            lines += _table("  ", {name: (_spread(a), _spread(b), "") for name, (a, b) in self.statistics.items()})
            lines += [f"  {line}" for line in self.differences]
            said = "made again" if self.equal else "NOT reproduced, the fields are others"
            return "\n".join([*lines, f"{said}: {self.session}"])
        for what, (then, now) in {"samples": self.dataset, "weights": self.weights}.items():
            if then or now:
                same = f"the same, bit for bit (sha256 {str(then)[:SHOWN]}...)"
                place = f"; {self.where[what]}" if what in self.where else ""
                lines.append(f"{what}: {same if then == now else f'different: sha256 {then} then, {now} now'}{place}")
        if self.differences:
            lines += ["otherwise different:", *(f"  {line}" for line in self.differences)]
        lines.append(f"{'reproduced' if self.equal else 'NOT reproduced'}: {self.session}")
        return "\n".join(lines)


def _hash(run: Mapping[str, Any]) -> str | None:
    return run["dataset"]["hash"] if run["dataset"] else None


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield the other differences, a line each."""
    for name in ("python", "platform", "threads"):
        if then[name] != now[name]:
            yield f"{name}: {then[name]} then, {now[name]} now"
    for name in ("cpu", "cores", "gpus", "cuda"):
        if (old := then["hardware"].get(name)) != (new := now["hardware"].get(name)):
            yield f"{name}: {old} then, {new} now"
    versions = {
        name: (then["packages"].get(name), now["packages"].get(name)) for name in then["packages"] | now["packages"]
    }
    others = {name: pair for name, pair in versions.items() if pair[0] != pair[1]}
    for name, (old, new) in list(others.items())[:LISTED]:
        yield f"package {name}: {old or 'none'} then, {new or 'none'} now"
    if len(others) > LISTED:
        yield f"and {len(others) - LISTED} more packages"
    own = [(run.get("physgym") or {}).get("commit") for run in (then, now)]
    if own[0] != own[1]:
        yield f"commit of physgym: {own[0]} then, {own[1]} now"


def _statistics(
    then: Mapping[str, Any], now: Mapping[str, Any], samples: RecordedSamples
) -> dict[str, tuple[Any, Any]] | None:
    """Return what `Comparison.statistics` has, of two runs."""
    if _hash(then) == _hash(now) or not all((run["dataset"] or {}).get(SOURCE) for run in (then, now)):
        return None
    found = []
    for run in (then, now):
        about = run["dataset"]
        try:
            dataset = SampleDataset(samples.path(about["path"]), about.get("mode", "training"), mini=about["samples"])
        except DatasetError as error:
            raise ConfigError(f"the samples in {about['path']} cannot be read, and not be compared: {error}") from error
        found.append(
            {
                name: (float(np.mean(one.mean)), float(np.sqrt(np.mean(np.square(one.std)))))
                for name, one in dataset.statistics.items()
            }
        )
    old, new = found
    return {name: (old.get(name), new.get(name)) for name in {**old, **new}}


def _table(indent: str, rows: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """Return rows with what was, what is and the difference as lines, below a head; none of no rows."""
    if not rows:
        return []
    table = [("", "then", "now", "difference" if any(row[2] for row in rows.values()) else "")]
    table += [(name, *row) for name, row in rows.items()]
    widths = [max(len(row[column]) for row in table) for column in range(4)]
    lines = []
    for name, *figures in table:
        columns = (figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))
        lines.append(indent + "  ".join([name.ljust(widths[0]), *columns]).rstrip())
    return lines


def _spread(found: tuple[float, float] | None) -> str:
    return "-" if found is None else f"{found[0]:.3g} ± {found[1]:.3g}"


def _figure(value: Any) -> str:
    return f"{value:.9g}" if isinstance(value, float) else "-" if value is None else str(value)


def _difference(then: Any, now: Any) -> str:
    if then == now:
        return "0"
    numbers = all(isinstance(value, (int, float)) for value in (then, now))
    return f"{now - then:.3g}" if numbers and math.isfinite(now - then) else "different"
