"""Scenes of stored samples: as the solver computed them, as the network predicts them, and the error."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from physgym.checks import one_of
from physgym.data.dataset import SampleDataset
from physgym.data.rejected_samples import RejectedSamples
from physgym.errors import ConfigError, SceneError
from physgym.running.run_step import PREDICTION
from physgym.sample import Sample, SampleSpec, present
from physgym.scene.changes import SceneSnapshot
from physgym.scene.default import default_scene
from physgym.scene.episode_scenes import EpisodeScenes
from physgym.scene.episode_series import EpisodeSeries
from physgym.scene.kinds import PLOTS
from physgym.scene.message import MESSAGE, message_scene
from physgym.scene.objects import Scene
from physgym.scene.over_time import NOW, SERIES, TIMES
from physgym.scene.prediction_error import PredictionErrors
from physgym.scene.stored import scene_of
from physgym.scene.timeline import Timeline, timeline_of
from physgym.scene.values import FIELD
from physgym.spaces import Array

log = logging.getLogger(__name__)

Side = Literal["solver", "network", "error"]
SIDES: tuple[Side, ...] = get_args(Side)


class SampleScenes:
    """Scenes of the samples of a dataset.

    Args:
        dataset: The samples.
        sides: Which scenes of a sample: the solver's, the network's, and the error between them. By default all three
            where predictions are stored and something else than curves over time shows them, else the solver's. Where
            it is the solver's alone, what a network predicts is in it as well, as a ghost.
        live: Scenes of the simulation itself in place of the solver's that follow from the samples.
        timeline: Their episodes, for curves over time; by default all.

    Attributes:
        sides: The same, in that order.

    Raises:
        ConfigError: A side is unknown, or there are no predictions to show.
    """

    def __init__(
        self,
        dataset: SampleDataset,
        sides: Sequence[Side] | None = None,
        live: EpisodeScenes | None = None,
        timeline: Timeline | None = None,
    ) -> None:
        self._dataset, self._live = dataset, live
        self._said: set[str] = set()  # errors
        spec, line = dataset.spec, timeline_of(dataset) if timeline is None else timeline
        self._predicted = [name.removeprefix(PREDICTION) for name in spec if name.startswith(PREDICTION)]
        self.sides = _checked(sides, predicted=bool(self._predicted), live=live is not None)
        # one for all sides, so that their colours and cameras are the same
        self._scene, shown = self._scene_and_predicted("time (s)" if line.unit == "s" else "step")
        if sides is None and shown and all(map(over_time, shown)):
            self.sides = ("solver",)
        self._errors = PredictionErrors(shown, {name: spec[f"{PREDICTION}{name}"].unit for name in self._predicted})
        self._padded = _plotted_and_padded(self._scene, spec)
        named = {*_fields(self._scene.declaration())}
        small = [name for name in spec if f"{name}{SERIES}" in named]
        self._series = EpisodeSeries(dataset, line, small)
        self._written = _texts_of(self._scene, small)

    def _scene_and_predicted(self, time: str) -> tuple[Scene, list[dict[str, Any]]]:
        """Return the scene, and the declarations of those of its objects that a predicted field moves or colours.

        Where a simulation declares none of these, the plots of the predicted fields are added to its scene.
        """
        scene = scene_of(self._dataset, time=time)
        if self.sides == ("solver",):
            return scene, []
        names = [*self._predicted, *(f"{name}{SERIES}" for name in self._predicted)]
        fields = [one for name, one in self._dataset.spec.items() if name in self._predicted]
        if fields and not objects_of(scene, names):
            log.info("the scene shows none of the predicted fields %s: they are drawn besides", self._predicted)
            scene = _joined(scene, default_scene(SampleSpec(fields), self._dataset.constants, time=time))
        shown = objects_of(scene, names)
        return scene, [one for one in scene.declaration()["objects"] if one["name"] in shown]

    def snapshots(self, timeline: Timeline, position: int) -> list[SceneSnapshot]:
        """Return the scene of each side at a position; a text in place of one that cannot be drawn."""
        if self._live is not None:
            return [self._live.snapshot(int(timeline.episode[position]), int(timeline.step[position]))]
        row = self._row(timeline, position)
        if self.sides == ("solver",):
            return [self._drawn(row)]
        true = {name: value for name, value in row.items() if not name.startswith(PREDICTION)}
        predicted = {key.removeprefix(PREDICTION): value for key, value in row.items() if key.startswith(PREDICTION)}
        self._drawn({**true, **predicted})  # its colours and camera are those of both
        solver, network = self._drawn(true), self._drawn({**true, **predicted})
        unable = next((one for one in (network, solver) if MESSAGE in one["objects"]), None)
        every = {
            "solver": solver,
            "network": self._errors.network(network),
            "error": self._errors.snapshot(solver, network) if unable is None else unable,
        }
        return [every[side] for side in self.sides]

    def prepare(self, timeline: Timeline, positions: Sequence[int]) -> None:
        """Look at samples beforehand, so that colours and cameras are the same in pictures of all of them."""
        for position in positions:
            self.snapshots(timeline, position)

    def reason(self, timeline: Timeline, position: int) -> str:
        """Return why a sample was rejected; empty where it was not."""
        return self._rejected.reasons[timeline.rows[position]] if timeline.rejected[position] else ""

    def _drawn(self, row: Mapping[str, Array]) -> SceneSnapshot:
        try:
            found = self._scene.snapshot(row, self._dataset.constants)
        except SceneError as error:  # what was rejected or predicted need not be finite
            if str(error) not in self._said:
                self._said.add(str(error))
                log.warning("%s", error)
            return message_scene(f"not drawn: {error}")
        if TIMES not in row:
            return found
        return {**found, "objects": {name: one for name, one in found["objects"].items() if name not in self._written}}

    def _row(self, timeline: Timeline, position: int) -> Sample:
        number = int(timeline.rows[position])
        if timeline.rejected[position]:
            row = {name: values[number] for name, values in self._rejected.samples.items()}
        else:
            row = {**self._dataset[number]}
        spec = self._dataset.spec
        for name in self._padded:
            there = present(spec[name], spec[spec[name].mask], np.asarray(row[spec[name].mask])[np.newaxis])[0]
            row |= {key: np.where(there, row[key], np.nan) for key in (name, f"{PREDICTION}{name}") if key in row}
        folder, episode = int(timeline.folder[position]), int(timeline.episode[position])
        return {**row, **self._series.of(folder, episode, float(timeline.time[position]))}

    @cached_property
    def _rejected(self) -> RejectedSamples:
        found = self._dataset.rejected
        assert found is not None  # the timeline has some
        return found


def _checked(sides: Sequence[Side] | None, *, predicted: bool, live: bool) -> tuple[Side, ...]:
    if sides is None:
        return SIDES if predicted and not live else ("solver",)
    for side in sides:
        one_of("side", side, SIDES)
    found: tuple[Side, ...] = tuple(side for side in SIDES if side in sides)
    if found == ("solver",):
        return found
    if not found:
        raise ConfigError(f"no side is given; choose among {', '.join(SIDES)}")
    if live:
        raise ConfigError("the simulation itself is the solver's side; leave the others out")
    if not predicted:
        raise ConfigError("the samples hold no predictions; record some with: physgym run SESSION --record DATA")
    return found


def _plotted_and_padded(scene: Scene, spec: SampleSpec) -> list[str]:
    """Return the padded fields that curves and images alone show, which have gaps where a value is not there."""
    kinds = {one["name"]: one["kind"] for one in scene.declaration()["objects"]}
    found = []
    for name, one in spec.items():
        if one.mask in spec and one.dtype.kind in "biuf" and one.dtype != np.uint8:  # bytes may be a picture
            shown = {kinds[each] for each in objects_of(scene, [name])}
            found += [name] if shown and shown <= {*PLOTS} else []
    return found


def _joined(scene: Scene, other: Scene) -> Scene:
    """Return a scene with the objects of another one besides, some of which get another name."""
    found, names = scene.declaration(), {*scene.handles}
    for one in other.declaration()["objects"]:
        while one["name"] in names:
            one["name"] += "'"
        names.add(one["name"])
        found["objects"].append(one)
    return Scene.from_declaration(found, scene.owner)


def _texts_of(scene: Scene, fields: Sequence[str]) -> set[str]:
    """Return the names of the texts that say the values of fields, in whose place there are curves."""
    said = [{"values": {FIELD: f"{start}{name}"}} for name in fields for start in ("", PREDICTION)]
    every = scene.declaration()["objects"]
    return {one["name"] for one in every if one["kind"] == "text" and one["arrays"] in said}


def over_time(declared: Mapping[str, Any]) -> bool:
    """Return whether an object of a declaration is a curve over time, or a text."""
    return declared["kind"] == "text" or declared["arrays"].get("x") in ({FIELD: TIMES}, {FIELD: NOW})


def objects_of(scene: Scene, fields: Sequence[str]) -> list[str]:
    """Return the names of the objects that are made of any of these fields."""
    every = scene.declaration()["objects"]
    return [one["name"] for one in every if not {*_fields(one["arrays"])}.isdisjoint(fields)]


def _fields(tree: Any) -> Iterator[str]:
    """Return the names of the fields in the data of values."""
    if isinstance(tree, Mapping):
        if isinstance(name := tree.get(FIELD), str):
            yield name
        tree = list(tree.values())
    if isinstance(tree, list):
        for inner in tree:
            yield from _fields(inner)
