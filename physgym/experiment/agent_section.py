"""The section ``agent`` of a configuration: what learns to act in the environment, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, WithJsonSchema, model_validator

from physgym.experiment import components
from physgym.experiment.component_section import Component, Named, PlainArguments
from physgym.experiment.sections import Section, key
from physgym.generation.options import OnError, Timeout

# sections that count for nothing with an agent, and what stands in their place
INSTEAD = {
    "sampler": "an agent chooses its actions itself, and the environment draws its parameters",
    "dataset": "an agent learns from what it records itself in the session, and from the recordings in agent.cache",
    "inputs": "an agent gets all observations of its environment; agent.preprocessing changes them",
    "outputs": "agent.type says what its network gives",
    "loss_fields": "agent.type says what its loss is",
    "network": "set agent.arguments.network",
    "transforms": "set agent.preprocessing, agent.normalize_observations and agent.normalize_rewards",
    "optimization": "set agent.arguments, such as agent.arguments.lr",
    "training": "set agent.steps, agent.batch_size, agent.gradient_steps and agent.save_every",
    "validation": "set agent.evaluate_every and agent.evaluate_episodes",
}
# keys that count for nothing where an agent learns from recordings alone
ACTING = (
    *("num_envs", "num_workers", "learning_starts", "learn_every", "capacity", "infos", "max_episode_steps"),
    *("evaluate_every", "evaluate_episodes", "evaluate_arguments"),
)

HISTOGRAMS = ("histograms", "weights", "gradients")  # keys of stats that are about a network

AgentName = Annotated[str, AfterValidator(lambda name: components.check_name(name, tuple(components.AGENTS)))]
TrainingCallback = Annotated[Component, Named(tuple(components.CALLBACKS))]
_STEP = {
    "type": "object",
    "properties": {"type": {"type": "string"}, "arguments": {"type": "object"}},
    "required": ["type"],
    "additionalProperties": False,
}
PreprocessingStep = Annotated[
    Component,
    Named((), lambda name, known: name),  # `Preprocessing` knows its names
    WithJsonSchema({"anyOf": [{"type": "string"}, _STEP]}),
]
RecordingFolders = Annotated[list[str], Field(min_length=1)]


class StepLimitSection(Section):
    """Limit of the steps of an episode that grows with the episodes, linearly."""

    first: int = Field(ge=1, description="limit of the first episode")
    last: int = Field(ge=1, description="limit of the last episode of the growth, and of all after it")
    episodes: int = Field(ge=1, description="number of that last episode")


class AgentSection(Section):
    """An agent that learns to act in the environment, from its own steps or from recordings."""

    type: AgentName = Field(description=f"{', '.join(components.AGENTS)}, or module:attr, an Agent")
    arguments: PlainArguments = Field(
        default_factory=dict,
        description="arguments of the agent's constructor, such as network, lr, gamma and those of exploration",
    )
    steps: int = Field(
        100_000, ge=1, description="steps of all environments together; without an environment, gradient steps"
    )
    num_envs: int = Field(8, ge=1, description="environments in which the agent acts at once")
    num_workers: int | None = Field(
        None,
        ge=0,
        description="processes for the environments; by default the fastest number, 0 for none; results do not depend "
        "on it",
    )
    learning_starts: int = Field(1000, ge=0, description="steps of all environments before the first gradient step")
    learn_every: int | None = Field(
        None, ge=1, description="steps of all environments between two times of learning; by default num_envs"
    )
    gradient_steps: int = Field(1, ge=1, description="gradient steps each time")
    batch_size: int = Field(128, ge=1, description="transitions of a gradient step")
    capacity: int | None = Field(
        100_000,
        ge=1,
        description="largest number of rows in the replay: steps, and last observations of episodes; the oldest files "
        "are deleted. null keeps all",
    )
    preprocessing: list[PreprocessingStep] = Field(
        default_factory=list,
        description="wrappers of the environment in their order, by name or with arguments: those of Gymnasium such "
        "as GrayscaleObservation, physgym's, or module:attr",
    )
    stack: int = Field(1, ge=1, description="observations that the agent sees together, the newest last")
    normalize_observations: bool = Field(
        False, description="normalize observations by running mean and deviation, which evaluations do not change"
    )
    normalize_rewards: bool = Field(False, description="normalize rewards by the running deviation of returns")
    max_episode_steps: int | StepLimitSection | None = Field(
        None,
        description="steps after which an episode is cut: a number, or one that grows with the episodes; null as the "
        "environment has it",
    )
    infos: list[str] = Field(default_factory=list, description="entries of the info that the replay keeps")
    cache: str | RecordingFolders | None = Field(
        None,
        description="recordings to learn from, folders or s3://bucket/prefix, in place of the environment or with it",
    )
    cache_share: float = Field(1.0, gt=0, le=1, description="fraction of a batch from the recordings")
    evaluate_every: int = Field(0, ge=0, description="steps between two evaluations without exploration; 0 for none")
    evaluate_episodes: int = Field(10, ge=1, description="episodes of an evaluation, always the same ones")
    evaluate_arguments: PlainArguments = Field(
        default_factory=dict,
        description="arguments of the environment of evaluations, which add to environment.arguments or replace them",
    )
    report_every: int = Field(1000, ge=1, description="steps between two points of the curves (an epoch)")
    save_every: int = Field(10_000, ge=0, description="steps between two checkpoints; 0 saves none")
    keep: int = Field(2, ge=1, description="how many of the newest checkpoints are kept")
    timeout: float = key(Timeout)
    on_error: Literal["raise", "restart"] = key(OnError, "what happens when a worker dies or hangs: raise, or restart")
    callbacks: list[TrainingCallback] = Field(default_factory=list, description="of the training's events")

    @model_validator(mode="after")
    def _recordings(self) -> Self:
        if self.cache is None and self.cache_share != 1:
            raise ValueError(
                f"cache_share: {self.cache_share} is the share of the recordings in cache; name them there, or leave "
                "it out"
            )
        return self


def uncounted_with_agent(config: BaseModel) -> str:
    """Return the fault of a configuration of an agent with keys that count for nothing there; empty without any."""
    environment, agent = dict(config)["environment"], dict(dict(config)["agent"])
    idle = [
        name for name in ACTING if agent[name] != AgentSection.model_fields[name].get_default(call_default_factory=True)
    ]
    if environment is None and idle:
        return (
            f"{', '.join(f'agent.{name}' for name in idle)}: an agent that learns from recordings alone does not act. "
            "Name an environment as well, or leave it out"
        )
    if environment is not None and not isinstance(environment.arguments, Mapping):
        return (
            "environment.arguments: a list has the arguments of the episodes of a dataset, one after the other; an "
            "agent's environments are alike, and their episodes differ by their seeds. Give one section"
        )
    if not (found := list(_uncounted(config))):
        return ""
    return f"with the section agent some keys count for nothing: {'; '.join(found)}. Leave them out"


def _uncounted(config: BaseModel) -> Iterator[str]:
    """Yield the keys that are set, each with what stands in its place."""
    values = dict(config)
    if wanted := [f"stats.{name}" for name in HISTOGRAMS if dict(values["stats"])[name]]:
        yield f"{', '.join(wanted)} (an agent's curves have no histograms)"
    for name, instead in INSTEAD.items():
        usual = type(config).model_fields[name].get_default(call_default_factory=True)
        if values[name] == usual:
            continue
        changed = [name]
        if isinstance(values[name], BaseModel):
            ours, theirs = dict(values[name]), dict(usual)
            changed = [f"{name}.{key}" for key in ours if ours[key] != theirs[key]]
        yield f"{', '.join(changed)} ({instead})"


def missing_environment(agent: Mapping[str, Any]) -> str:
    """Return the fault of an agent that has no environment to act in; empty where it has recordings to learn from."""
    if agent.get("cache"):
        return ""
    return "environment: missing; name what the agent acts in, or recordings that it learns from in agent.cache"
