"""Keys of a configuration that count with some ways of producing samples alone, and are refused with others."""

from __future__ import annotations

import math
from collections.abc import Iterator

from physgym.errors import ConfigError
from physgym.experiment.schema import Config, OnlineSection, TrainingSection, ValidationSection

ONLINE_SAMPLES = (
    "dataset.samples: {samples} counts for nothing with dataset.produce: online. dataset.online.samples (now {online}) "
    "says after how many samples the production ends, training.batches_per_epoch how long an epoch is; set these, and "
    "leave out dataset.samples (dataset.samples=null)"
)
EPOCH_TWICE = (
    "dataset.samples: {samples} and training.batches_per_epoch: {batches} (of {size} samples) both say how many "
    "samples dataset.produce: {produce} makes for an epoch. Leave out one of them: dataset.samples=null, or "
    "training.batches_per_epoch=null"
)
ONLINE_ALONE = (
    "dataset.online ({given}) counts with dataset.produce: online alone, which is {produce}. Set "
    "dataset.produce=online, or leave out dataset.online"
)
NOT_STORED = (
    "{key} is about samples that are stored, and dataset.produce: always stores none without dataset.path. Name a "
    "folder there, or leave out {key}"
)
FRACTION = (
    "validation.fraction: {fraction} holds out nothing with dataset.produce: {produce}, which trains on all that "
    "arrives. Set validation.fraction=0, or name other samples in validation.path"
)
ORDER = (
    "{key} is about samples that are stored before they are trained on; with dataset.produce: {produce} the order is "
    "that in which they come. Leave it out"
)


def check_produced(config: Config) -> None:
    """Raise ConfigError where a configuration has a key that would count for nothing, by how samples are produced."""
    for text in _uncounted(config):
        raise ConfigError(text)


def _uncounted(config: Config) -> Iterator[str]:
    dataset, training, validation = config.dataset, config.training, config.validation
    produce, samples = dataset.produce, dataset.samples
    if produce != "online":
        usual, given = OnlineSection().model_dump(), dataset.online.model_dump()
        if changed := [f"{name}: {value}" for name, value in given.items() if value != usual[name]]:
            yield ONLINE_ALONE.format(given=", ".join(changed), produce=produce)
    if produce == "before":
        return
    batches, size = training.batches_per_epoch, training.batch_size
    if samples is not None and produce == "online":
        yield ONLINE_SAMPLES.format(samples=samples, online=dataset.online.samples)
    elif samples is not None and batches is not None and math.ceil(samples / size) != batches:
        yield EPOCH_TWICE.format(samples=samples, batches=batches, size=size, produce=produce)
    if produce == "first_epoch":
        return
    if produce == "always" and dataset.path is None:
        for name in ("keep_rejected", "max_file_size"):
            if getattr(dataset, name) != type(dataset).model_fields[name].default:
                yield NOT_STORED.format(key=f"dataset.{name}")
    if validation.fraction not in (0, ValidationSection().fraction) and validation.path is None:
        yield FRACTION.format(fraction=validation.fraction, produce=produce)
    for name in ("shuffle", "loader_workers"):
        if getattr(training, name) != getattr(TrainingSection(), name):
            yield ORDER.format(key=f"training.{name}", produce=produce)
