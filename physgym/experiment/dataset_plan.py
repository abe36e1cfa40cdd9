"""The samples of a training: whether they are there and enough, how they are made, and how they are split."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch

from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import EpisodeSplit, effective_split, has_partitions
from physgym.data.description import Mode
from physgym.data.origins import check_not_made_by_surgery
from physgym.errors import ConfigError, SampleError
from physgym.experiment import components
from physgym.experiment.config import NEW_SAMPLES
from physgym.experiment.generation_plan import (
    answering_network,
    build_sampler,
    environment_arguments,
    environment_id,
    generation_options,
)
from physgym.experiment.recorded_environment import STORED_ALONE, check_recorded_arguments, check_recorded_name
from physgym.experiment.schema import Config
from physgym.files import short
from physgym.generation.generate import generate
from physgym.sample import SampleSpec
from physgym.samplers import rebuild_sampler
from physgym.storage.location import Location, place
from physgym.training.foreign import Feed, TorchSamples, as_samples
from physgym.vector.make import env_factories

DatasetFolders: TypeAlias = Path | Location | list[Path | Location]  # of a dataset, or of several
ONE_DATASET = "dataset.path: physgym generate writes one dataset; name one folder"


def places(path: str | list[str]) -> DatasetFolders:
    """Return the place of a dataset, or of several that are read as one."""
    return place(path) if isinstance(path, str) else [place(one) for one in path]


def dataset_folder(config: Config, session: Path) -> DatasetFolders:
    """Return the place of the samples: the one that the configuration names, else that in the session."""
    return places(config.dataset.path) if config.dataset.path else session / "dataset"


def dataset_has_samples(folder: DatasetFolders, mode: Mode = "training") -> bool:
    """Return whether a dataset, or each of several, has samples of a part."""
    return all(has_partitions(one, mode) for one in (folder if isinstance(folder, list) else [folder]))


def open_dataset(config: Config, folder: DatasetFolders, mode: Mode = "training", **options: Any) -> SampleDataset:
    """Open a dataset with what the configuration says of its fields.

    Args:
        config: Names what feeds what, where samples do not say it.
        folder: Place of the dataset, or of several.
        mode: Part of it.
        **options: Further ones of `SampleDataset`.

    Raises:
        ConfigError: The fields of the dataset do not fit the configuration.
    """
    try:
        return SampleDataset(folder, mode, feedback=config.dataset.feedback, **options)
    except SampleError as error:
        raise ConfigError(f"dataset.{error}") from None


def samples_to_load(config: Config) -> SampleDataset | None:
    """Open the dataset whose samples drive the simulation; None where there is none."""
    return None if config.dataset.load_samples is None else SampleDataset(config.dataset.load_samples)


def wanted_samples(config: Config) -> int | None:
    """Return how many samples to generate; None where the configuration asks for episodes alone."""
    section = config.dataset
    if section.samples is None and section.episodes is not None:
        return section.mini
    return min(section.samples or NEW_SAMPLES, section.mini or sys.maxsize)


def has_enough(config: Config, dataset: SampleDataset) -> bool:
    """Return whether a dataset has the samples, or the episodes, that a configuration wants."""
    wanted, episodes = wanted_samples(config), config.dataset.episodes
    if wanted is not None and len(dataset) >= wanted:
        return True
    if episodes is None:
        return False
    last, endings = int(dataset.index("episode").max(initial=-1)), dataset.endings
    ended = endings is not None and endings.get(last) != "unfinished"
    return last + 1 > episodes or (last + 1 == episodes and ended)


def is_complete(config: Config, session: Path | None) -> bool:
    """Return whether all samples that a training wants are there."""
    if config.dataset.type is not None:
        return True
    if config.dataset.produce != "before" or (config.dataset.path is None and session is None):
        return False
    folder = dataset_folder(config, session or Path())
    if not dataset_has_samples(folder):
        return False
    return (config.dataset.samples is None and config.dataset.episodes is None) or has_enough(
        config, SampleDataset(folder)
    )


def existing_spec(config: Config, folder: DatasetFolders | None) -> SampleSpec | None:
    """Return the fields of the dataset in a folder, or of the one that is named; None if there is none yet.

    Raises:
        ConfigError: It holds samples of another simulation.
    """
    path = folder or (None if config.dataset.path is None else places(config.dataset.path))
    if path is None or not (isinstance(path, list) or dataset_has_samples(path)):
        return None
    dataset = open_dataset(config, path)
    for one in path if isinstance(path, list) else [path]:
        check_recorded_name(config, SampleDataset(one))
    return dataset.spec


def check_environment(config: Config) -> None:
    """Raise ConfigError if the simulation that is named cannot be found, or stored samples had other arguments."""
    path = config.dataset.path
    if config.environment is None:
        return
    try:
        env_factories(config.environment.id, environment_arguments(config))
    except ConfigError as error:
        stored = path is not None or config.dataset.type is not None
        instead = f". {STORED_ALONE}" if stored and config.dataset.produce == "before" else ""
        raise ConfigError(f"environment: {error}{instead}") from error
    if path is not None and (isinstance(path, list) or dataset_has_samples(places(path))):
        for one in [path] if isinstance(path, str) else path:
            check_recorded_name(config, SampleDataset(one))
        check_recorded_arguments(config, SampleDataset(path))


def check_samplers(config: Config) -> None:
    """Raise ConfigError if samples are to be added to a dataset that other samplers have made."""
    section = config.dataset
    asked = section.samples is not None or section.episodes is not None
    if section.path is None or not asked or not dataset_has_samples(folder := places(section.path)):
        return
    dataset = SampleDataset(folder)
    if has_enough(config, dataset):
        return
    check_not_made_by_surgery(dataset.source, f"the dataset in {short(str(folder))}")
    for what in ("actions", "parameters"):
        wanted = build_sampler(getattr(config.sampler, what), what)
        made = dataset.source.get(what)
        if wanted is not None and wanted.describe() != made:
            raise ConfigError(
                f"sampler.{what}: {short(str(folder))} has {len(dataset)} of {section.samples} samples, made with "
                f"{made or 'none'}, the configuration says {wanted.describe()}. Take the dataset as it stands "
                f"(dataset.samples=null), leave the sampler to it (sampler.{what}=null), or name another place"
            )


def check_stored(config: Config) -> None:
    """Raise ConfigError if a dataset is named that is not there and of which nothing says how many samples to make."""
    section = config.dataset
    asked = (section.samples, section.episodes, section.mini, section.load_samples, section.type)
    if not isinstance(section.path, str) or section.produce != "before" or any(value is not None for value in asked):
        return
    if not dataset_has_samples(folder := place(section.path)):
        raise ConfigError(
            f"dataset.path: there are no samples in {short(str(folder))}; name a dataset that is there, or say with "
            "dataset.samples how many are to be generated"
        )


def continued_options(options: dict[str, Any], folder: DatasetFolders) -> dict[str, Any]:
    """Return options of generation, completed by those that a dataset was made with."""
    if not dataset_has_samples(folder):
        return options
    options, source = dict(options), SampleDataset(folder).source
    for name in ("actions", "parameters"):
        options[name] = options[name] or rebuild_sampler(source.get(name), name)
    return options | {name: source[name] for name in ("seed", "max_steps", "nonfinite") if name in source}


def make_dataset(config: Config, generation: dict[str, Any], folder: DatasetFolders) -> SampleDataset:
    """Return the dataset to train on; missing samples are generated."""
    wanted, episodes = config.dataset.samples, config.dataset.episodes
    if isinstance(folder, list):
        return open_dataset(config, folder, mini=config.dataset.mini)
    if dataset_has_samples(folder):
        dataset = open_dataset(config, folder, mini=config.dataset.mini)
        if (wanted is None and episodes is None) or has_enough(config, SampleDataset(folder)):
            return dataset
    load = samples_to_load(config)
    if wanted is not None or load is None or config.dataset.mini is not None:
        wanted = wanted_samples(config)
    env, options = environment_id(config, f"generating samples into {folder}"), continued_options(generation, folder)
    dataset = generate(env, str(folder), samples=wanted, episodes=episodes, resume=True, load=load, **options)
    if config.dataset.feedback is not None:
        dataset = open_dataset(config, folder)
    return dataset if config.dataset.mini is None else dataset.subset(np.arange(min(config.dataset.mini, len(dataset))))


def shared_dataset(config: Config, folder: DatasetFolders, *, allow_changed_code: bool = False) -> SampleDataset:
    """Return the samples of several trainings that a configuration describes; missing ones are generated.

    Raises:
        PhysGymError: What `physgym.generate` raises, and as `train` if the folder holds others.
    """
    existing_spec(config, folder)
    more = {"allow_changed_code": allow_changed_code, "predictor": answering_network(config)}
    return make_dataset(config, generation_options(config) | more, folder)


def note_unused_count(config: Config, dataset: SampleDataset) -> None:
    """Say that a number of samples limits nothing, where a stored dataset has more of them."""
    wanted, mini = config.dataset.samples, config.dataset.mini
    if config.dataset.path is not None and wanted is not None and mini is None and len(dataset) > wanted:
        text = (
            f"dataset.samples: {wanted} says how many samples the dataset shall have at least; it has {len(dataset)}, "
            f"and all are taken. dataset.mini={wanted} takes the first {wanted}"
        )
        print(text, file=sys.stderr)


def held_out_folder(config: Config, folder: DatasetFolders) -> DatasetFolders | None:
    """Return the place of samples to validate on: ``validation.path``, or the dataset if it has a part for that."""
    if config.validation.path is not None:
        return place(config.validation.path)
    if config.dataset.produce == "before" and config.validation.fraction and dataset_has_samples(folder, "validation"):
        return folder
    return None


def validation_part(folder: DatasetFolders) -> Mode:
    """Return the part of a dataset to validate on: the one made for it, else the only one there is."""
    return "validation" if dataset_has_samples(folder, "validation") else "training"


def episode_split(config: Config) -> EpisodeSplit | None:
    """Return the division into parts that a configuration asks for; None where it leaves that to the dataset."""
    section = config.dataset.split
    return None if section is None else EpisodeSplit(**section.model_dump())


def split_samples(
    config: Config, dataset: SampleDataset, folder: DatasetFolders
) -> tuple[SampleDataset, SampleDataset | None]:
    """Divide a dataset into samples to train and to validate on; a test part is in neither of them."""
    fraction, own_validation = config.validation.fraction, held_out_folder(config, folder) is not None
    split = effective_split(dataset.episode_split, episode_split(config))
    validation = None
    if split is not None:
        if split.validation and fraction and not own_validation:
            validation = dataset.part("validation", split)
        elif split.validation and config.validation.path is not None:
            raise ConfigError(
                f"validation.path: the split {split} of the dataset has a validation part; leave one of them out"
            )
        dataset = dataset.part("training", split)
    if own_validation or not fraction or validation is not None:
        return dataset, validation
    if config.dataset.mini is not None and len(np.unique(dataset.episodes)) < 2:
        print(f"no validation: the first {len(dataset)} samples are of one episode", file=sys.stderr)
        return dataset, None
    return dataset.split(fraction, config.seed)


def own_samples(config: Config) -> TorchSamples | Feed | None:
    """Return the samples that a configuration names by a class of its own; None where it names none.

    Raises:
        ConfigError: It is no dataset or loader of torch, or its samples are no fields.
    """
    part, key = config.dataset.type, "dataset.type"
    if part is None:
        return None
    kinds = (torch.utils.data.Dataset, torch.utils.data.DataLoader)
    found = components.find_class(part.type, {}, key, *kinds)
    torch.manual_seed(config.seed)
    made = components.make(found, key, **part.arguments)
    if not isinstance(made, kinds):
        raise ConfigError(f"{key}: {part.type} gives {made!r}, which is no dataset or loader of torch")
    samples = cast(TorchSamples | Feed, as_samples(made, config.training.batch_size))
    endless = isinstance(samples, Feed) and samples.num_batches is None
    if endless and config.training.batches_per_epoch is None:
        raise ConfigError("training.batches_per_epoch: missing; the loader does not say how long it is")
    if config.dataset.mini is None or isinstance(samples, Feed):
        return samples
    return samples.subset(np.arange(min(len(samples), config.dataset.mini)))


def split_own(own: TorchSamples | Feed, config: Config) -> tuple[TorchSamples | Feed, TorchSamples | None]:
    """Divide own samples into those to train and to validate on; of a loader nothing can be held out."""
    fraction = config.validation.fraction
    if isinstance(own, Feed) or config.validation.path is not None or not fraction:
        return own, None
    return own.split(fraction, config.seed)
