"""The schema of configurations: what there is, its defaults, and what each key means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    field_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from physgym.checks import is_integer
from physgym.errors import ConfigError, SampleError
from physgym.experiment import components
from physgym.experiment.agent_section import AgentSection, TrainingCallback, missing_environment, uncounted_with_agent
from physgym.experiment.component_section import Component, EnvironmentArguments, Named, PlainArguments
from physgym.experiment.search.section import SearchSection
from physgym.experiment.sections import Section, key, with_keys
from physgym.feedback import parse_feedback
from physgym.generation.options import EpisodesOption, GenerationOptions, OnlineOptions, SeedOption
from physgym.running.options import ROLLOUT_STEPS, RunnerOptions
from physgym.samplers.table import sampler_names, shown_names

MINI = 100  # samples of --mini
# keys of an agent with --mini, unless they are smaller
MINI_AGENT = {"steps": 400, "learning_starts": 100, "report_every": 100, "evaluate_episodes": 1}


LossComponent = Annotated[Component, Named(tuple(components.LOSSES))]
Optimizer = Annotated[Component, Named(tuple(components.OPTIMIZERS))]
Schedule = Annotated[Component, Named(tuple(components.SCHEDULES))]
OptimizationKind = Annotated[Component, Named(tuple(components.OPTIMIZATIONS))]
TransformComponent = Annotated[Component, Named(tuple(components.TRANSFORMS))]
CurveLogger = Annotated[Component, Named(tuple(components.LOGGERS))]
OwnSamples = Annotated[Component, Named(())]
ActionSampler = Annotated[Component, Named(sampler_names("actions"), components.check_sampler)]
ParameterSampler = Annotated[Component, Named(sampler_names("parameters"), components.check_sampler)]


class EnvironmentSection(Section):
    """The simulation."""

    id: str = Field(
        description="registered id; 'module:id' imports a module first; 'module:Class' needs no id; 'transitions:ID' "
        "records the transitions of any environment"
    )
    arguments: EnvironmentArguments = Field(
        default_factory=dict,
        description="arguments of the environment's constructor; of a list of k, episode e takes those at e modulo k",
    )


class SamplerSection(Section):
    """Samplers of actions and of the parameters of episodes."""

    actions: ActionSampler | None = Field(
        None,
        description=f"{', '.join(shown_names('actions'))}, or module:attr, a "
        "function of (observation, generator) or a Sampler; null leaves it to the environment",
    )
    parameters: ParameterSampler | None = Field(
        None,
        description=f"{', '.join(shown_names('parameters'))}, or module:attr, a Sampler; null "
        "leaves it to the environment",
    )


if TYPE_CHECKING:  # type checkers know the keys by their declaration, see `sections.options_in`
    _Online = Section
else:
    _Online = with_keys(Section, OnlineOptions)


class OnlineSection(_Online):
    """The buffer between running simulators and the training."""


def _check_feedback(value: Any) -> Any:
    """Check the form of a feedback; whether the fields fit is seen where they are known."""
    try:
        parse_feedback(value, "feedback")
    except SampleError as error:
        raise ValueError(str(error)) from None
    return value


Folders = Annotated[list[str], Field(min_length=1)]
FeedbackDeclaration = Annotated[str | list[str] | dict[str, str], AfterValidator(_check_feedback)]


class _Samples(Section):
    """Keys that say which samples there shall be."""

    path: str | Folders | None = Field(
        None,
        description="dataset folder or s3://bucket/prefix; by default 'dataset' in the session. A list names datasets "
        "that are there and are read as one",
    )
    type: OwnSamples | None = Field(
        None,
        description="samples of your own in place of path, as module:attr: a torch Dataset or DataLoader, or a "
        "function that makes one",
    )
    samples: int | None = Field(
        None, ge=1, description="number of samples; missing ones are generated. null takes the dataset as it is"
    )
    episodes: int | None = key(
        EpisodesOption, "number of episodes; with samples too, generation ends at the first of both"
    )
    mini: int | None = Field(None, ge=1, description="only the first so many samples, for a quick try; --mini sets it")
    produce: Literal["before", "first_epoch", "always", "online"] = Field(
        "before",
        description="generate before the training, in its first epoch, again for every epoch, or while it trains",
    )
    load_samples: str | None = Field(
        None, description="dataset whose samples drive the simulation, in place of actions"
    )
    feedback: FeedbackDeclaration | None = Field(
        None,
        description="which output of a step is which input of the next one: 'next_state -> state', or 'state' where "
        "it is stored once; a list for several. null leaves it to the samples",
    )


class SplitSection(Section):
    """The parts of a dataset, by episode: which ones is drawn from a seed of its own, and kept as the dataset grows."""

    training: float = Field(gt=0, le=1, description="fraction of the episodes to train on")
    validation: float = Field(0.0, ge=0, lt=1, description="fraction to validate on")
    test: float = Field(0.0, ge=0, lt=1, description="fraction that the training never sees")
    seed: int = Field(0, ge=0, description="which episodes")

    @model_validator(mode="after")
    def _whole(self) -> SplitSection:
        from physgym.data.dataset_parts import EpisodeSplit  # here: it loads h5py, which takes time

        try:
            EpisodeSplit(**self.model_dump())
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


if TYPE_CHECKING:
    _Generation = _Samples
else:
    _Generation = with_keys(_Samples, GenerationOptions)


class DatasetSection(_Generation):
    """The samples: where they are, and how missing ones are made."""

    online: OnlineSection = Field(default_factory=OnlineSection, description="with produce: online")
    split: SplitSection | None = Field(
        None, description="training, validation and test part of the episodes; null takes what the dataset records"
    )

    @model_validator(mode="after")
    def _divided(self) -> DatasetSection:
        if self.split is not None and (self.produce != "before" or self.type is not None):
            raise ValueError(
                "split divides a dataset that is there before the training: with a type there are no episodes, and "
                "what a training produces as it goes is all trained on. Leave out produce and type, and generate the "
                "dataset first (physgym generate CONFIG)"
            )
        return self

    @model_validator(mode="after")
    def _several(self) -> DatasetSection:
        made = (self.samples, self.episodes, self.load_samples)
        if isinstance(self.path, list) and (any(value is not None for value in made) or self.produce != "before"):
            raise ValueError(
                "several datasets (path) are taken as they stand; leave out samples, episodes, load_samples and produce"
            )
        return self

    @model_validator(mode="after")
    def _own(self) -> DatasetSection:
        if self.type is not None and self.feedback is not None:
            raise ValueError(
                "samples of your own (type) have no episodes and steps, so that nothing can be fed back; leave out "
                "feedback"
            )
        made = (self.path, self.samples, self.episodes, self.load_samples)
        if self.type is not None and (any(value is not None for value in made) or self.produce != "before"):
            raise ValueError(
                "samples of your own (type) are taken as they stand; leave out path, samples, episodes, load_samples "
                "and produce"
            )
        return self

    @model_validator(mode="after")
    def _whole_episodes(self) -> DatasetSection:
        if self.episodes is not None and self.produce != "before":
            raise ValueError("episodes goes with produce: before; a training that produces asks for samples")
        return self


class NetworkSection(Section):
    """The network; the sizes of input and output follow from the samples."""

    type: Annotated[str, AfterValidator(lambda name: components.check_name(name, tuple(components.NETWORKS)))] = Field(
        "MLP",
        description=f"{', '.join(components.NETWORKS)}, or module:attr: a class, by its from_spec(spec, inputs=, "
        "outputs=) if any",
    )
    arguments: PlainArguments = Field(default_factory=dict, description="arguments of the network's constructor")
    start_from: str | None = Field(
        None, description="session or checkpoint whose network is trained further, in place of a new one"
    )
    which: str = Field("last", description="which checkpoint of it: last, best, an epoch or a name")


Scale = Literal["auto", "field", "component", "channel", "channel_last"]


class TransformsSection(Section):
    """Transforms of fields around the network."""

    normalize: bool = Field(True, description="normalize inputs and outputs by the training samples")
    scale: Scale | dict[str, Scale] = Field(
        "auto",
        description="scale of the normalization: one number per field, channel (of the first or last axis) or "
        "component; for all fields or by name",
    )
    pointwise_mean: bool = Field(
        True, description="whether each number has a mean of its own; false for fields on grids of any size"
    )
    physical_loss: bool = Field(False, description="compute the loss in physical units, not in normalized ones")
    before_prediction: list[TransformComponent] = Field(
        default_factory=list, description="transform of the inputs, before they are normalized"
    )
    before_loss: list[TransformComponent] = Field(
        default_factory=list, description="transform of prediction and target, after the target was normalized"
    )
    before_apply: list[TransformComponent] = Field(
        default_factory=list, description="transform of the prediction in physical units, before it is returned"
    )


class OptimizationSection(Section):
    """Optimization of the network."""

    type: OptimizationKind = Field(
        Component(type="Optimization"), description="a subclass with its own loss terms or step, as module:attr"
    )
    loss: LossComponent = Field(Component(type="mse"), description="a class, or a function of (prediction, target)")
    optimizer: Optimizer = Field(
        Component(type="adam"),
        description="optimizer of torch, by name, or module:attr; with arguments: {type: ..., arguments: {...}}",
    )
    lr: float = Field(1e-3, gt=0, description="learning rate")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimizer")
    schedule: Schedule = Field(
        Component(type="constant"),
        description="schedule of the learning rate: cosine and one_cycle span all epochs; step halves it every 5; "
        "exponential takes off 5 % in each; plateau takes a tenth if the loss stays. Arguments change that",
    )
    schedule_every: Literal["batch", "epoch"] | None = Field(
        None,
        description="when the schedule advances; by default every batch for cosine and one_cycle, else every epoch",
    )
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")
    accumulate: int = Field(1, ge=1, description="parts in which the gradient of a batch is computed")
    precision: Literal["float32", "float64", "bfloat16", "float16"] = Field(
        "float32", description="precision of the network's computations; with float64 its weights are float64"
    )


class CheckpointsSection(Section):
    """Times at which the training is saved, and the checkpoints that are kept."""

    every: int = Field(1, ge=1, description="save after so many epochs")
    steps: int | None = Field(None, ge=1, description="save also after so many batches")
    minutes: float | None = Field(None, gt=0, description="save also after so many minutes")
    keep: int | None = Field(1, ge=1, description="how many of the newest are kept; null keeps all")
    path: str | None = Field(None, description="folder or s3://bucket/prefix; by default 'networks' in the session")
    best: bool = Field(True, description="also keep the best one")
    monitor: str | None = Field(
        None,
        description="value of an epoch that decides which is the best, such as rollout_relative_l2/FIELD; by default "
        "that of early_stopping, else the validation loss",
    )
    mode: Literal["min", "max"] | None = Field(
        None, description="whether small or large values are better; by default min"
    )


class EarlyStoppingSection(Section):
    """Conditions to stop before the last epoch."""

    monitor: str = Field("validation_loss", description="value of an epoch that should fall")
    patience: int = Field(10, ge=1, description="epochs without a lower value")
    min_delta: float = Field(0.0, ge=0, description="smallest decrease that counts")
    mode: Literal["min", "max"] = Field("min", description="whether the value should fall or rise")


class RolloutSection(Section):
    """The costlier validation: the network in the simulation, compared with the solver."""

    steps: int = Field(ROLLOUT_STEPS, ge=1, description="steps of the simulation")
    every: int = Field(5, ge=1, description="epochs between two of them; one more is after the last epoch")
    horizons: list[int] = Field(
        default_factory=list, description="steps after which to compare trajectories that the network makes alone"
    )


class ValidationSection(Section):
    """The phases of validation: a cheap one after every epoch, and a costlier one."""

    fraction: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="fraction of the episodes, held out if the dataset has no validation part; 0 for no validation",
    )
    path: str | None = Field(None, description="dataset to validate on: its validation part if it has one")
    rollout: RolloutSection | None = Field(None, description="null for none")


class UnrollSection(Section):
    """The steps that the network makes from its own outputs in the loss; a number stands for `steps`."""

    steps: int | None = Field(None, ge=1, description="how many; by default the largest number of the curriculum")
    push_forward: int | None = Field(
        None, ge=1, description="how many at the end count in the training; those before have no gradient"
    )
    curriculum: dict[int, int] | None = Field(
        None, description="steps by the epoch from which on they hold, such as {0: 1, 20: 4, 50: 8}"
    )
    noise: float | dict[str, float] = Field(
        0.0, description="standard deviation of noise on the inputs that outputs feed; for all or by name"
    )
    noise_units: Literal["normalized", "physical"] = Field("normalized", description="units of noise")
    weights: list[float] | None = Field(None, description="how much the loss of each step counts")
    truncate: int | None = Field(None, ge=1, description="cut the gradient after so many steps, to save memory")

    @field_serializer("curriculum")
    def _by_text(self, curriculum: dict[int, int] | None) -> dict[str, int] | None:
        return None if curriculum is None else {str(epoch): steps for epoch, steps in curriculum.items()}

    @model_validator(mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return {"steps": value} if is_integer(value) else value

    @model_validator(mode="after")
    def _sensible(self) -> UnrollSection:
        from physgym.training.unroll import Unroll  # imports torch, which only those who unroll wait for

        try:
            Unroll(**dict(self))
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "integer", "minimum": 1}, handler(schema)]}


class TrainingSection(Section):
    """Length and manner of the training."""

    epochs: int = Field(10, ge=1, description="passes over the training samples")
    batch_size: int = Field(32, ge=1, description="samples of a step of the optimizer")
    batches_per_epoch: int | None = Field(
        None, ge=1, description="largest number of batches in an epoch; null takes all samples"
    )
    shuffle: bool | Literal["random", "window"] = Field(
        True, description="how samples are shuffled: true as fits the memory, random, window, or false"
    )
    predict: Literal["value", "change"] = Field(
        "value",
        description="what the network predicts of outputs that are inputs of the next step: their value, or the "
        "change from that input",
    )
    last_batch: Literal["auto", "keep", "join", "drop"] = Field(
        "auto",
        description="a last batch that is not full: keep it, join it to the one before, drop it; auto joins a single "
        "sample where the network needs more",
    )
    unroll: UnrollSection | None = Field(
        None, description="steps that the network makes from its own outputs in the loss; null for single samples"
    )
    metrics: list[str] = Field(
        default_factory=list,
        description="metrics of the validation and of test sets, after each epoch: mse, rmse, mae, max_error, "
        "relative_l2, r2, nrmse, or module:attr, a function of (prediction, target)",
    )
    test: dict[str, str] = Field(
        default_factory=dict,
        description="test sets by name: datasets whose losses and metrics are in the curves, and choose nothing",
    )
    early_stopping: EarlyStoppingSection | None = Field(None, description="null for none")
    checkpoints: CheckpointsSection = Field(default_factory=CheckpointsSection)
    callbacks: list[TrainingCallback] = Field(default_factory=list, description="of the training's events")
    on_nonfinite: Literal["raise", "skip"] = Field("raise", description="what to do with a batch without a finite loss")
    loader_workers: int = Field(0, ge=0, description="processes that gather batches; 0 for a thread")
    device_resident: bool | Literal["auto"] = Field(
        "auto", description="whether stored samples are held on the device; auto: on a GPU where they are small"
    )
    compile: bool = Field(False, description="call the network through torch.compile")


class StatsSection(Section):
    """The curves, and what writes them to the session's folder `stats`."""

    loggers: list[CurveLogger] = Field(
        default_factory=lambda: [Component(type="tensorboard")],
        min_length=1,
        description="what writes the curves, one or more: tensorboard, csv (tables), mlflow, wandb (servers), or "
        "module:attr, a Logger",
    )
    histograms: bool = Field(
        False, description="histograms of weights and gradients after every epoch, if a logger has histograms"
    )
    weights: int | None = Field(
        None,
        ge=0,
        description="epochs between two histograms of the weights; 0 for none; null follows histograms",
    )
    gradients: int | None = Field(
        None, ge=0, description="epochs between two histograms of the gradients; 0 for none; null follows histograms"
    )
    charts: dict[str, list[str]] = Field(
        default_factory=dict,
        description="plots of several curves, where a logger has plots: names or regular expressions, by title",
    )


class _Run(Section):
    """Keys of the run itself."""

    steps: int = Field(100, ge=0, description="number of steps; 0 runs until Ctrl-C")
    which: str | None = Field(
        None,
        description="which checkpoint: last, best, an epoch or a name; null is best with early_stopping, else last",
    )


if TYPE_CHECKING:
    _Running = _Run
else:
    _Running = with_keys(_Run, RunnerOptions)


class RunnerSection(_Running):
    """The run of the network by `physgym run SESSION`; its options override this."""

    frames: str | None = Field(
        None, description="folder for a picture of each step, with the prediction if apply_prediction keeps it"
    )
    actions: ActionSampler | None = Field(None, description="as in sampler")
    parameters: ParameterSampler | None = Field(None, description="as in sampler")


class Config(Section):
    """A training, from simulation to network."""

    description: str = Field("", description="what this training is for, in your words")
    session: str = Field("sessions/default", description="folder of the session; a taken name gets a suffix")
    seed: int = key(SeedOption, "seed of samples, weights, order and everything else that is random")
    device: str = Field(
        "cpu",
        description="where to train, such as cuda or cuda:1; auto takes cuda, else mps, else cpu; --cpu sets it to cpu",
    )
    environment: EnvironmentSection | None = Field(None, description="null trains on the samples of dataset.path alone")
    agent: AgentSection | None = Field(None, description="what learns to act in the environment; null trains a network")
    sampler: SamplerSection = Field(default_factory=SamplerSection)
    dataset: DatasetSection = Field(default_factory=DatasetSection)
    inputs: list[str] | None = Field(
        None, description="fields that feed the network, by name or in this order; by default those of role input"
    )
    outputs: list[str] | None = Field(
        None, description="fields that the network predicts; by default those of role target"
    )
    loss_fields: list[str] | None = Field(None, description="fields in the loss; by default the outputs")
    network: NetworkSection = Field(default_factory=NetworkSection)
    transforms: TransformsSection = Field(default_factory=TransformsSection)
    optimization: OptimizationSection = Field(default_factory=OptimizationSection)
    training: TrainingSection = Field(default_factory=TrainingSection)
    validation: ValidationSection = Field(default_factory=ValidationSection)
    stats: StatsSection = Field(default_factory=StatsSection)
    runner: RunnerSection = Field(default_factory=RunnerSection)
    search: SearchSection | None = Field(None, description="what physgym search varies; other commands ignore it")

    @model_validator(mode="after")
    def _trains_one_thing(self) -> Config:
        if self.agent is not None and (uncounted := uncounted_with_agent(self)):
            raise ValueError(uncounted)
        return self

    @model_validator(mode="after")
    def _has_samples(self) -> Config:
        if missing := missing_samples(self.model_dump(include={"environment", "agent", "dataset", "validation"})):
            raise ValueError(missing)
        return self


def missing_samples(data: Mapping[str, Any]) -> str:
    """Return the fault of a configuration that names no simulation; empty if there is none."""

    def of(section: str, key: str) -> Any:
        found = data.get(section)
        return found.get(key) if isinstance(found, Mapping) else None

    if data.get("environment") is not None:
        return ""
    if isinstance(data.get("agent"), Mapping):
        return missing_environment(data["agent"])
    if of("dataset", "path") is None and of("dataset", "type") is None:
        return "environment: missing; name a simulation, or a dataset in dataset.path"
    if of("dataset", "produce") not in (None, "before") or of("validation", "rollout") is not None:
        return "environment: missing; dataset.produce and validation.rollout need the simulation"
    return ""
