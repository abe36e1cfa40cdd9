"""Keys of a configuration that count with some ways of producing samples alone, and are refused with others."""

from __future__ import annotations

import math
from collections.abc import Iterator

from physgym.errors import ConfigError
from physgym.experiment.schema import Config, OnlineSection, TrainingSection, ValidationSection
from physgym.experiment.sections import options_in
from physgym.generation.options import OnlineOptions


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
            yield (
                f"dataset.online ({', '.join(changed)}) counts with dataset.produce: online alone, which is "
                f"{produce}. Set dataset.produce=online, or leave out dataset.online"
            )
    if produce == "before":
        return
    if produce != "first_epoch" and training.unroll is not None:
        yield (
            f"training.unroll needs whole episodes, and with dataset.produce: {produce} samples come one by one while "
            "the network trains. Set dataset.produce=before or first_epoch, or leave out training.unroll"
        )
    batches, size = training.batches_per_epoch, training.batch_size
    if samples is not None and produce == "online":
        yield (
            f"dataset.samples: {samples} counts for nothing with dataset.produce: online. dataset.online.samples "
            f"(now {options_in(dataset.online, OnlineOptions)['samples']}) says after how many samples the production "
            "ends, training.batches_per_epoch how long an epoch is; set these, and leave out dataset.samples "
            "(dataset.samples=null)"
        )
    elif samples is not None and batches is not None and math.ceil(samples / size) != batches:
        yield (
            f"dataset.samples: {samples} and training.batches_per_epoch: {batches} (of {size} samples) both say "
            f"how many samples dataset.produce: {produce} makes for an epoch. Leave out one of them: "
            "dataset.samples=null, or training.batches_per_epoch=null"
        )
    if produce == "first_epoch":
        return
    if produce == "always" and dataset.path is None:
        for name in ("keep_rejected", "max_file_size"):
            if getattr(dataset, name) != type(dataset).model_fields[name].default:
                key = f"dataset.{name}"
                yield (
                    f"{key} is about samples that are stored, and dataset.produce: always stores none without "
                    f"dataset.path. Name a folder there, or leave out {key}"
                )
    if validation.fraction not in (0, ValidationSection().fraction) and validation.path is None:
        yield (
            f"validation.fraction: {validation.fraction} holds out nothing with dataset.produce: {produce}, which "
            "trains on all that arrives. Set validation.fraction=0, or name other samples in validation.path"
        )
    for name in ("shuffle", "loader_workers", "device_resident"):
        if getattr(training, name) != getattr(TrainingSection(), name):
            yield (
                f"training.{name} is about samples that are stored before they are trained on; with "
                f"dataset.produce: {produce} the order is that in which they come. Leave it out"
            )
