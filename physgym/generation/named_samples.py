"""Samples with their names, and what is stored together with them.

A sample's name is (episode, step). The parameters of a sample's episode and of all episodes before belong to it, and
so do the rejected samples and the endings of episodes with lesser names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from physgym.data.snapshots import Taken
from physgym.data.writer import SampleWriter
from physgym.protocol.step_reports import StepReports
from physgym.sample import Sample
from physgym.spaces import Array

Name: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class SampleNames:
    """Names of samples, in ascending order.

    Attributes:
        episodes: Index of the episode of each sample, shape (n,), int64.
        steps: Step in its episode, shape (n,), int64.
        seeds: Seed of its episode, shape (n,), uint64.
    """

    episodes: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    steps: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    seeds: Array = field(default_factory=lambda: np.zeros(0, np.uint64))

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def columns(self) -> tuple[Array, Array, Array]:
        """Return the episodes, steps and seeds."""
        return self.episodes, self.steps, self.seeds

    def cut(self, part: slice | Array) -> SampleNames:
        """Return some of the names."""
        return SampleNames(*(column[part] for column in self.columns))

    def after(self, episode: int, step: int) -> Array:
        """Return a mask of the names that are greater than one."""
        later: Array = (self.episodes > episode) | ((self.episodes == episode) & (self.steps > step))
        return later

    @property
    def first(self) -> Name:
        """Return the episode and step of the first one."""
        return int(self.episodes[0]), int(self.steps[0])

    @property
    def last(self) -> Name:
        """Return the episode and step of the last one."""
        return int(self.episodes[-1]), int(self.steps[-1])

    def as_arguments(self) -> dict[str, Array]:
        """Return the columns as arguments of a `SampleWriter`."""
        return {"episode": self.episodes, "step": self.steps, "seed": self.seeds}


@dataclass(frozen=True)
class NamedSamples:
    """Samples in the order of their names, with the parameters, rejected samples and endings that belong to them.

    Attributes:
        samples: Fields of shape (n, *field shape).
        names: Their names; where steps are reported, those of all steps, of which rejected ones have no sample.
        parameter_names: Names of episodes with known parameters; their steps mean nothing.
        parameters: Parameters of these episodes, shape (n, *shape); empty without episodes.
        rejected_names: Names of rejected samples.
        rejected: Rejected samples, as `samples`; empty without any.
        reasons: Reasons of their rejection.
        ending_names: Names of the last steps of episodes that ended, whether these gave a sample or not.
        endings: How these episodes ended.
        rejections: Their rejected steps, each with the reason.
        reports: What is known of each step; None where steps are not reported.
        snapshots: States of simulations on the way: episode, step after which, its seed, arrays by name.
    """

    samples: Sample
    names: SampleNames = field(default_factory=SampleNames)
    parameter_names: SampleNames = field(default_factory=SampleNames)
    parameters: Sample = field(default_factory=dict)
    rejected_names: SampleNames = field(default_factory=SampleNames)
    rejected: Sample = field(default_factory=dict)
    reasons: Sequence[str] = ()
    ending_names: SampleNames = field(default_factory=SampleNames)
    endings: Sequence[str] = ()
    rejections: Sequence[Mapping[int, str]] = ()
    reports: StepReports | None = None
    snapshots: Sequence[Taken] = ()

    def __len__(self) -> int:
        return len(self.names)

    def cut(self, part: slice | Array) -> NamedSamples:
        """Return some of the samples, with all parameters, rejected samples and endings."""
        if (reports := self.reports) is not None:
            samples = _cut(self.samples, reports.samples_of(part))
            return replace(self, samples=samples, names=self.names.cut(part), reports=reports.cut(part))
        return replace(self, samples=_cut(self.samples, part), names=self.names.cut(part))

    def after(self, episode: int, step: int) -> NamedSamples:
        """Return the samples after a name, with what belongs to them."""
        return self.cut(self.names.after(episode, step))._keep(episode, step, later=True)

    def split(self, limit: int) -> tuple[NamedSamples, NamedSamples]:
        """Return the first samples and the rest, each with what belongs to it; there must be a sample."""
        head, rest = self.cut(slice(limit)), self.cut(slice(limit, None))
        name = head.names.last
        return head._keep(*name, later=False), rest._keep(*name, later=True)

    def then(self, rows: NamedSamples) -> NamedSamples:
        """Return following samples, with what belongs to these, where there is no sample in these."""
        return replace(
            rows,
            parameter_names=join_names(self.parameter_names, rows.parameter_names),
            parameters=_join(self.parameters, rows.parameters),
            rejected_names=join_names(self.rejected_names, rows.rejected_names),
            rejected=_join(self.rejected, rows.rejected),
            reasons=[*self.reasons, *rows.reasons],
            ending_names=join_names(self.ending_names, rows.ending_names),
            endings=[*self.endings, *rows.endings],
            rejections=[*self.rejections, *rows.rejections],
            snapshots=[*self.snapshots, *rows.snapshots],
        )

    def write(self, writer: SampleWriter) -> None:
        """Append the samples to a dataset, or what came after the last one."""
        if len(self.parameter_names):
            writer.add_parameters(
                self.parameters, episode=self.parameter_names.episodes, seed=self.parameter_names.seeds
            )
        if len(self.rejected_names):
            writer.add_rejected(self.rejected, self.reasons, **self.rejected_names.as_arguments())
        if len(self.ending_names):
            writer.add_endings(episode=self.ending_names.episodes, steps=self.ending_names.steps + 1, how=self.endings)
        if len(self):
            writer.append(self.samples, **self.names.as_arguments())

    def _keep(self, episode: int, step: int, *, later: bool) -> NamedSamples:
        """Keep the parameters, rejected samples and endings up to a name, or after it."""
        others = len(self.parameter_names) + len(self.rejected_names) + len(self.ending_names) + len(self.snapshots)
        if not others:
            return self
        known = (self.parameter_names.episodes > episode) == later
        rejected = self.rejected_names.after(episode, step) == later
        ends = self.ending_names.after(episode, step) == later
        return replace(
            self,
            parameter_names=self.parameter_names.cut(known),
            parameters=_cut(self.parameters, known),
            rejected_names=self.rejected_names.cut(rejected),
            rejected=_cut(self.rejected, rejected),
            reasons=list(itertools.compress(self.reasons, rejected.tolist())),
            ending_names=self.ending_names.cut(ends),
            endings=list(itertools.compress(self.endings, ends.tolist())),
            rejections=list(itertools.compress(self.rejections, ends.tolist())),
            snapshots=[one for one in self.snapshots if (one[:2] > (episode, step)) == later],
        )


def _cut(columns: Sample, part: slice | Array) -> Sample:
    return {name: column[part] for name, column in columns.items()}


def _join(first: Sample, second: Sample) -> Sample:
    if not first or not second:
        return first or second
    return {name: np.concatenate([first[name], second[name]]) for name in second}


def join_names(*parts: SampleNames) -> SampleNames:
    """Return names one behind the other."""
    return SampleNames(*map(np.concatenate, zip(*(part.columns for part in parts), strict=True)))
