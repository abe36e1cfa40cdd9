"""Labels that a person gives to recorded steps: good, bad, or the action that would have been right.

They stand in a file next to the dataset, by episode and step; no row of it changes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from physgym.casting import CastError, as_dtype
from physgym.checks import integer, one_of
from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.errors import ConfigError, DatasetError
from physgym.files import read_regular, write_atomically
from physgym.sample import Field, SampleSpec
from physgym.spaces import ValueRange, from_json, is_custom, leaf_spaces, value_range

Verdict = Literal["good", "bad"]
VERDICTS: tuple[Verdict, ...] = ("good", "bad")
FORMAT, VERSION = "physgym-labels", 1
LARGEST = 1 << 30  # bytes of the file
ACTION, ACTED = "action", "acted"
ROWS = 1024  # that are read at a time
SHOWN = 5  # steps that an error names


@dataclass(frozen=True)
class Label:
    """A label of a step.

    Attributes:
        verdict: "good" or "bad"; None for neither.
        action: The action that would have been right, by field; None where there is none.
    """

    verdict: Verdict | None = None
    action: Mapping[str, Any] | None = None

    def __str__(self) -> str:
        words: list[str] = [self.verdict] if self.verdict else []
        if self.action is not None:
            words.append(f"right: {', '.join(str(value) for value in self.action.values())}")
        return ", ".join(words)


class Labels:
    """The labels of a part of a dataset; each change is written at once.

    Args:
        dataset: The dataset: of one folder on the disk.

    Attributes:
        file: Where they stand.
        fields: The fields of an action by name.

    Raises:
        ConfigError: It has several folders, is not on the disk, or has no field of actions.
        DatasetError: The file of labels is damaged.
    """

    def __init__(self, dataset: SampleDataset) -> None:
        if len(dataset.places) != 1:
            raise ConfigError("label the samples of one folder at a time: SampleDataset(path)")
        (folder,) = dataset.places
        if not isinstance(folder, Path):
            raise ConfigError(f"labels are written next to the samples, and {folder} is no folder; get a copy of it")
        self.file = folder / f"labels-{dataset.mode}.json"
        spec = dataset.partitions[0].spec
        self.fields = {name: f for name, f in spec.items() if name == ACTION or name.startswith(f"{ACTION}/")}
        if not self.fields:
            raise ConfigError(
                f"{dataset.paths[0]} has no field {ACTION!r}; recordings of an agent or a person have one"
            )
        self._bounds = _bounds(dataset.attributes)
        self._text = self._read()
        self._labels = dict(_parsed(self._text, self.file))

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._labels)

    def of(self, episode: int, step: int) -> Label | None:
        """Return the label of a step; None where it has none."""
        return self._labels.get((episode, step))

    def judge(self, steps: Iterable[tuple[int, int]], verdict: Verdict) -> None:
        """Call steps good or bad.

        Args:
            steps: Episode and step of each.
            verdict: "good" or "bad".

        Raises:
            ConfigError: It is neither.
            DatasetError: Somebody else has labelled steps meanwhile, or the disk refuses; so in all methods.
        """
        one_of("verdict", verdict, VERDICTS)
        self._put({name: replace(self._labels.get(name, Label()), verdict=verdict) for name in _names(steps)})

    def correct(self, steps: Iterable[tuple[int, int]], action: Mapping[str, Any] | Sequence[float] | float) -> None:
        """Say which action would have been right.

        Args:
            steps: Episode and step of each.
            action: The action, by field where there are several.

        Raises:
            ConfigError: It does not fit the fields.
        """
        found = self.checked(action)
        self._put({name: replace(self._labels.get(name, Label()), action=found) for name in _names(steps)})

    def forget(self, steps: Iterable[tuple[int, int]]) -> None:
        """Take labels away."""
        self._put(dict.fromkeys(_names(steps)))

    def checked(self, action: Mapping[str, Any] | Sequence[float] | float) -> dict[str, Any]:
        """Return an action as JSON data, by field.

        Raises:
            ConfigError: It does not fit the fields.
        """
        if not isinstance(action, Mapping):
            if list(self.fields) != [ACTION]:
                raise ConfigError(f"give the action by field: {sorted(self.fields)}")
            action = {ACTION: action}
        if action.keys() != self.fields.keys():
            raise ConfigError(f"the action has the fields {sorted(self.fields)}, not {sorted(action)}")
        found = {}
        for name, one in self.fields.items():
            try:
                value = np.asarray(action[name])
                if one.dtype.kind in "iu" and value.dtype.kind == "f" and (value == np.rint(value)).all():
                    value = value.astype(np.int64)  # a number that a person has typed
                value = value.astype(one.dtype) if one.dtype.kind == "f" else as_dtype(value, one.dtype)
            except (CastError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"{name} is {one.dtype} of shape {one.shape}, not {action[name]!r} ({error})"
                ) from error
            if value.size != np.prod(one.shape, dtype=int) or (one.dtype.kind == "f" and not np.isfinite(value).all()):
                raise ConfigError(f"{name} has shape {one.shape} and is finite, not {action[name]!r}")
            value = value.reshape(one.shape)
            bounds = self._bounds.get(name)
            if bounds is not None and bounds.low.shape == one.shape and not bounds.holds(value):
                low, high = bounds.low.tolist(), bounds.high.tolist()
                raise ConfigError(f"{name} is between {low} and {high} in this recording, not {action[name]!r}")
            found[name] = value.tolist()
        return found

    def _put(self, changes: Mapping[tuple[int, int], Label | None]) -> None:
        labels = {**self._labels, **changes}
        kept = {name: label for name, label in sorted(labels.items()) if label is not None and label != Label()}
        rows = [[*name, label.verdict, label.action] for name, label in kept.items()]
        text = json.dumps({"format": FORMAT, "version": VERSION, "labels": rows}, separators=(",", ":")).encode()
        if self._read() != self._text:
            raise DatasetError(f"{self.file} was changed by somebody else meanwhile; open the dataset again")
        try:
            write_atomically(self.file, text.decode())
        except OSError as error:
            raise DatasetError(f"the label cannot be written to {self.file}: {error.strerror}") from error
        self._text, self._labels = text, kept

    def _read(self) -> bytes | None:
        try:
            return read_regular(self.file, LARGEST)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DatasetError(f"{self.file} cannot be read: {error.strerror}") from error


def apply_labels(source: str | Path, out: str | Path, *, mode: Any = "training") -> SampleDataset:
    """Write what is to be imitated of a labelled recording: without bad steps, and with the right actions.

    A step that is bad and has a corrected action stays, with that. Rows without an action, of the last observation of
    an episode, are left out. The action is the target, and observations are inputs: a network learns it from them.

    Args:
        source: Folder of the recording.
        out: Folder of the new dataset; nothing is there yet.
        mode: The part.

    Raises:
        ConfigError: The recording cannot be labelled, or no step is left.
        DatasetError: A label is of a step that is not there, or there are samples in `out` already.
    """
    dataset = SampleDataset(source, mode)
    labels, stored = Labels(dataset), dataset.partitions[0].spec
    names = list(zip(dataset.index("episode").tolist(), dataset.index("step").tolist(), strict=True))
    places = {name: row for row, name in enumerate(names)}
    if lost := sorted(set(labels) - places.keys())[:SHOWN]:
        raise DatasetError(f"{labels.file} has labels of steps that the dataset does not have, such as {lost}")
    acted = dataset.read(0, len(dataset), [ACTED])[ACTED].astype(bool) if ACTED in stored else np.ones(len(names), bool)
    given = [labels.of(*name) for name in names]
    bad = np.array([one is not None and one.verdict == "bad" and one.action is None for one in given])
    chosen = acted & ~bad
    if not chosen.any():
        raise ConfigError(f"no step of {source} is left: all are bad, or have no action")
    spec = SampleSpec([_learned(one) for one in dataset.spec.values() if one.name != ACTED])
    said = {"labelled": {"source": dataset.source, "labels": len(labels), "left_out": int(bad.sum())}}
    with SampleWriter(out, spec, mode=mode, source=said) as writer:
        for start in range(0, len(dataset), ROWS):
            stop = min(start + ROWS, len(dataset))
            rows = np.flatnonzero(chosen[start:stop])
            block = {name: value[rows] for name, value in dataset.read(start, stop, list(spec)).items()}
            for place, row in enumerate((rows + start).tolist()):
                if (label := given[row]) is not None and label.action is not None:
                    for name, value in label.action.items():
                        block[name][place] = value
            index = {name: dataset.index(name)[rows + start] for name in ("episode", "step", "seed", "env")}
            writer.append(block, **index)
    return SampleDataset(out, mode)


def _bounds(attributes: Mapping[str, Any]) -> dict[str, ValueRange]:
    """Return the bounds of actions by field, as far as a recording says its space."""
    said = json.loads(attributes.get("spaces") or "{}").get("action_space")
    if said is None or is_custom(said):
        return {}
    found = {name: value_range(one) for name, one in leaf_spaces(from_json(said), ACTION).items()}
    return {name: one for name, one in found.items() if one is not None}


def _learned(one: Field) -> Field:
    """Return a field of the recording as one that is imitated: rows no longer follow one another."""
    is_action = one.name == ACTION or one.name.startswith(f"{ACTION}/")
    role: Any = "target" if is_action else "additional" if one.role == "target" else one.role
    return replace(one, role=role, feeds="", mask="" if one.mask == ACTED else one.mask)


def _names(steps: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(integer("episode", episode, 0), integer("step", step, 0)) for episode, step in steps]


def _parsed(text: bytes | None, file: Path) -> Iterator[tuple[tuple[int, int], Label]]:
    if text is None:
        return
    try:
        data = json.loads(text)
        if (data["format"], data["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it is {data['format']} {data['version']}")
        for episode, step, verdict, action in data["labels"]:
            if verdict not in (None, *VERDICTS):
                raise ValueError(f"a verdict is {verdict!r}")
            yield (int(episode), int(step)), Label(verdict, action)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DatasetError(
            f"{file} holds no labels of this physgym ({error}); move it away, or bring it back"
        ) from error
