"""`drop`, `rename` and `describe`: other fields, names and words, the same values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import METADATA, EpisodeSplit
from physgym.data.description import UNFINISHED
from physgym.data.layout import ENDINGS, REJECTED
from physgym.data.sample_checks import check_storable, row_counts
from physgym.data.surgery.filtering import described_attributes
from physgym.data.surgery.lineage import changed_provenance, changed_source
from physgym.data.surgery.plans import NewDataset, NewPart, Piece
from physgym.data.surgery.sources import SourceDataset
from physgym.errors import ConfigError, PhysGymError
from physgym.sample import Field, FieldKind, FieldRole, SampleSpec
from physgym.scene.declared import with_renamed_field

SAID = ("unit", "role", "dimensions", "kind", "mask", "feeds")  # of a field, which "describe" changes
LONGEST_TEXT = 60_000  # bytes of one entry of the metadata


def changed_part(
    source: SourceDataset,
    mode: Any,
    spec: SampleSpec,
    step: Mapping[str, Any],
    stored: Mapping[str, str] | None = None,
) -> NewPart:
    """Return a part with all its rows and other fields.

    Args:
        source: The dataset.
        mode: Which part of it.
        spec: The new fields.
        step: What was done.
        stored: The field of before by new field, where it had another name.
    """
    dataset = source.parts[mode]
    for one in spec.values():
        check_storable(one)
    row_counts(spec)
    tables = dataset.partitions[0].tables
    return NewPart(
        mode,
        spec,
        [Piece(dataset)],
        changed_source(dataset, step),
        changed_provenance(source.path, dataset, step),
        stored or {},
        dataset.parameter_spec,
        REJECTED in tables,
        ENDINGS in tables,
        _attributes_for(dataset, spec),
    )


def without_fields(source: SourceDataset, names: Sequence[str]) -> NewDataset:
    """Return the dataset without some fields.

    Raises:
        ConfigError: There is no such field, none is left, or one is the mask of a field that stays.
    """
    if not names:
        raise ConfigError("name at least one field to drop")
    parts, notes = [], []
    for mode, dataset in _parts_with(source, names):
        notes += [
            f"{mode}: {one.name} feeds {one.feeds} no more, since one of both is left out"
            for one in dataset.spec.values()
            if one.feeds and (one.name in names) != (one.feeds in names)
        ]
        kept = [
            replace(field, feeds="" if field.feeds in names else field.feeds)
            for field in dataset.spec.values()
            if field.name not in names
        ]
        if not kept:
            raise ConfigError(
                f"{source.path} has no other field than {list(dataset.spec)}; a dataset keeps one at least"
            )
        for one in kept:
            if one.mask in names:
                raise ConfigError(
                    f"{one.mask!r} says which values of {one.name!r} are there; drop {one.name!r} as well, or take its "
                    f"mask away first: physgym data describe --set {one.name}.mask="
                )
        gone = [name for name in names if name in dataset.spec]
        new = (
            changed_part(source, mode, SampleSpec(kept), {"drop": gone})
            if gone
            else unchanged_part(dataset, source.path)
        )
        parts.append(new)
    return NewDataset(parts, source.constants, source.metadata, notes)


def with_name(source: SourceDataset, old: str, new: str) -> NewDataset:
    """Return the dataset with another name of a field.

    Raises:
        ConfigError: There is no such field, or the new name is taken or none.
    """
    if old == new:
        raise ConfigError(f"{old!r} is the name that the field has")
    parts = []
    for mode, dataset in _parts_with(source, [old]):
        if new in dataset.spec:
            raise ConfigError(f"{source.path} has a field {new!r} already; drop or rename that first")

        if old not in dataset.spec:
            parts.append(unchanged_part(dataset, source.path))
            continue
        names = {old: new}
        spec = spec_of(
            [
                replace(
                    field,
                    name=names.get(field.name, field.name),
                    mask=names.get(field.mask, field.mask),
                    feeds=names.get(field.feeds, field.feeds),
                )
                for field in dataset.spec.values()
            ]
        )
        parts.append(changed_part(source, mode, spec, {"rename": {old: new}}, {new: old}))
    return NewDataset(parts, source.constants, with_renamed_field(source.metadata, old, new))


def with_words(source: SourceDataset, said: Mapping[str, str]) -> NewDataset:
    """Return the dataset with other words about it and about its fields.

    Args:
        source: The dataset.
        said: Texts by key. ``FIELD.unit`` and the like change what is said of a field; an empty text takes it away.

    Raises:
        ConfigError: There is no such field, or it cannot be what is said.
    """
    metadata, of_fields = divided_words(source, said)
    parts = []
    for mode, dataset in source.parts.items():
        mine = {name: words for name, words in of_fields.items() if name in dataset.spec}
        for name, words in mine.items():
            if (fed := words.get("feeds")) and fed not in dataset.spec:
                raise unknown(fed, set(dataset.spec), f"{name}.feeds: {source.path}")
        spec = spec_of([_described(field, mine.get(name, {})) for name, field in dataset.spec.items()])
        step = {"describe": {f"{name}.{key}": text for name, words in mine.items() for key, text in words.items()}}
        parts.append(changed_part(source, mode, spec, step) if mine else unchanged_part(dataset, source.path))
    return NewDataset(parts, source.constants, changed_metadata(source.metadata, metadata))


def changed_metadata(before: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """Return metadata with other texts; an empty one takes its key away."""
    return {key: text for key, text in {**before, **said}.items() if text}


def divided_words(source: SourceDataset, said: Mapping[str, str]) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """Return what is said of the dataset, by key, and of its fields, by name and key.

    Raises:
        ConfigError: There is no such field, or it is no text.
    """
    if not said:
        raise ConfigError("say at least one thing: --set KEY=VALUE")
    known = {name for dataset in source.parts.values() for name in dataset.spec}
    metadata: dict[str, str] = {}
    of_fields: dict[str, dict[str, str]] = {}
    for key, text in said.items():
        name, point, what = key.rpartition(".")
        if not key or not isinstance(text, str) or len(text.encode(errors="replace")) > LONGEST_TEXT:
            raise ConfigError(f"{key!r} needs a text of at most {LONGEST_TEXT} bytes")
        if key.encode(errors="replace").decode() != key or text.encode(errors="replace").decode() != text:
            raise ConfigError(f"{key!r} or its text is no UTF-8")
        if key == UNFINISHED:
            raise ConfigError(f"{key!r} is what imports say for themselves; choose another key")
        if point and what in SAID:
            if name not in known:
                raise unknown(name, known, source.path)
            of_fields.setdefault(name, {})[what] = text
        elif point and name in known:
            raise ConfigError(f"{key!r}: of a field there are {', '.join(SAID)}")
        else:
            if key == METADATA and text:
                text = str(EpisodeSplit.of(text))
            metadata[key] = text
    return metadata, of_fields


def _described(field: Field, words: Mapping[str, str]) -> Field:
    """Return a field with other words about it."""
    changes: dict[str, Any] = {}
    for key, text in words.items():
        choices = {"role": get_args(FieldRole), "kind": get_args(FieldKind)}.get(key)
        if choices is not None:
            text = text or ("additional" if key == "role" else "number")
            if text not in choices:
                raise ConfigError(f"{field.name}.{key} must be one of {', '.join(choices)}, not {text!r}")
        if key == "dimensions" and text and not text.isdecimal():
            raise ConfigError(f"{field.name}.dimensions must be a number of axes, not {text!r}")
        changes[key] = (int(text) if text else None) if key == "dimensions" else text
    return replace(field, **changes)


def spec_of(fields: list[Field]) -> SampleSpec:
    """Return fields that surgery has made.

    Raises:
        ConfigError: A name or a word does not fit.
    """
    try:
        return SampleSpec(fields)
    except PhysGymError as error:
        raise ConfigError(str(error)) from error


def unknown(name: str, known: set[str], path: str) -> ConfigError:
    """Return the error of a field that is not there."""
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ConfigError(f"{path} has no field {name!r}; it has {', '.join(map(repr, sorted(known)))}{hint}")


def _parts_with(source: SourceDataset, names: Sequence[str]) -> list[tuple[Any, SampleDataset]]:
    """Return all parts, of which one at least has each of some fields.

    Raises:
        ConfigError: No part has one.
    """
    known = {name for dataset in source.parts.values() for name in dataset.spec}
    for name in names:
        if name not in known:
            raise unknown(name, known, source.path)
    return list(source.parts.items())


def unchanged_part(dataset: SampleDataset, path: str) -> NewPart:
    """Return a part as it is; without a step of surgery it can be continued where it is."""
    tables = dataset.partitions[0].tables
    provenance = dataset.provenance
    return NewPart(
        dataset.mode,
        dataset.spec,
        [Piece(dataset)],
        dataset.source,
        dict(provenance) if isinstance(provenance, Mapping) else changed_provenance(path, dataset, {"copy": True}),
        {},
        dataset.parameter_spec,
        REJECTED in tables,
        ENDINGS in tables,
        described_attributes(dataset),
    )


def _attributes_for(dataset: SampleDataset, spec: SampleSpec) -> dict[str, str]:
    """Return attributes that name the simulation; its sample space only where the fields still are those."""
    found = described_attributes(dataset)
    if "spaces" in found and set(spec) != set(dataset.spec):
        spaces = json.loads(found["spaces"])
        found["spaces"] = json.dumps({name: space for name, space in spaces.items() if name != "sample_space"})
    return found
