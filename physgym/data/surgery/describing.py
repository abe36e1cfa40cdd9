"""Metadata of a dataset where it is: its description alone is replaced."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from physgym.data.description import DESCRIPTION, Description, unwritten
from physgym.data.surgery.fields import changed_metadata, divided_words, unchanged_part
from physgym.data.surgery.plans import NewDataset
from physgym.data.surgery.sources import SourceDataset
from physgym.errors import ConfigError, DatasetError
from physgym.storage.location import Location, place


def describe_in_place(
    path: str | os.PathLike[str] | Location, source: SourceDataset, said: Mapping[str, str], *, dry_run: bool
) -> NewDataset:
    """Replace the metadata in the description of a dataset.

    Raises:
        ConfigError: What is said is about fields, or the dataset is in a storage.
        DatasetError: There is no description, a writer is at work, or the disk refuses.
    """
    metadata, of_fields = divided_words(source, said)
    if of_fields:
        name, words = next(iter(of_fields.items()))
        raise ConfigError(
            f"{name}.{next(iter(words))} stands in the partitions, which are never changed in place; add --out (out=)"
        )
    at = place(path)
    if not isinstance(at, Path):
        raise ConfigError(f"{path} is in a storage; add --out (out=), a place for a dataset with other metadata")
    words = changed_metadata(source.metadata, metadata)
    if not dry_run:
        with unwritten(at):
            described = Description.read(at)
            if not described.modes:
                raise DatasetError(f"{at} has no {DESCRIPTION}; write it again with physgym info {at} --rebuild")
            try:
                replace(described, metadata=changed_metadata(described.metadata, metadata)).write(at, durable=True)
            except OSError as error:
                raise DatasetError(f"cannot write {at / DESCRIPTION}: {error.strerror or error}") from error
    parts = [unchanged_part(dataset, source.path) for dataset in source.parts.values()]
    return NewDataset(parts, source.constants, words)
