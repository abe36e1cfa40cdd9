"""The simulation of a configuration, and the options of generation."""

from __future__ import annotations

from typing import Any

from physgym.episode import require_spec
from physgym.errors import ConfigError, PhysGymError, SampleError
from physgym.experiment import components
from physgym.experiment.component_section import Component
from physgym.experiment.networks import as_predictor, build_network, trained_network
from physgym.experiment.parts import build_changes, build_transforms, make_part
from physgym.experiment.schema import Config
from physgym.experiment.sections import options_in
from physgym.factories import takes
from physgym.files import absolute
from physgym.generation.generate import BREED_ALONE
from physgym.generation.options import GenerationOptions
from physgym.nn import Predictor
from physgym.object_references import with_objects
from physgym.sample import SampleSpec
from physgym.samplers import Breed, NetworkPolicy, Sampler, find_sampler
from physgym.samplers.find import sampler_with
from physgym.samplers.table import sampler_names
from physgym.step_fields import fields_for
from physgym.training.answers import Asked
from physgym.vector.make import env_factories
from physgym.worker import folders

# a function is a policy where its second parameter has such a name
GENERATORS = ("generator", "rng", "random", "np_random")


def environment_id(config: Config, what: str) -> str:
    """Return the id of the simulation.

    Args:
        config: Names it.
        what: What needs the simulation, for the error.

    Raises:
        ConfigError: The configuration names none.
    """
    if config.environment is None:
        raise ConfigError(f"environment: missing; {what} needs the simulation")
    return config.environment.id


def environment_arguments(config: Config, **more: Any) -> list[dict[str, Any]]:
    """Return the arguments of the environment, as a list: of k entries, episode e has those at e modulo k.

    Args:
        config: Names them.
        **more: Further ones of each.
    """
    named = {} if config.environment is None else config.environment.arguments
    return [{**one, **more} for one in ([named] if isinstance(named, dict) else named)]


def simulation_spec(config: Config) -> SampleSpec:
    """Return the fields of the samples of the simulation, which is made for that.

    Raises:
        ConfigError: It cannot be made.
    """
    name = environment_id(config, f"a new dataset in {config.dataset.path or 'the session'}")
    arguments = environment_arguments(config)
    factory = env_factories(name, arguments)[0]
    with folders.Folder():
        try:
            env = factory()
        except PhysGymError as error:
            raise ConfigError(f"environment: {error}") from error
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise ConfigError(f"environment: making {name} with {arguments[0]} raised {what}") from error
        try:
            return with_feedback(config, require_spec(env))
        finally:
            env.close()


def with_feedback(config: Config, spec: SampleSpec) -> SampleSpec:
    """Return fields with what the configuration says of feedback, if it says anything.

    Raises:
        ConfigError: The fields do not fit it.
    """
    declared = config.dataset.feedback
    try:
        return spec if declared is None else spec.with_feedback(declared, "feedback")
    except SampleError as error:
        raise ConfigError(f"dataset.{error}") from None


def build_sampler(part: Component | None, what: str, key: str = "sampler") -> Sampler | None:
    """Build the sampler of actions or parameters.

    Args:
        part: Its name and arguments; None for none.
        what: "actions" or "parameters".
        key: Section of the configuration, for errors.

    Raises:
        ConfigError: It is no sampler.
    """
    if part is None:
        return None
    name, colon, argument = part.type.partition(":")
    if name in sampler_names(what):
        if part.arguments and not colon:
            return sampler_with(name, with_objects(part.arguments, f"{key}.{what}"), f"{key}.{what}")
        if name == "network" and argument and absolute(argument).exists():
            return NetworkPolicy(trained_network(absolute(argument)))  # also one of a class of one's own
        return find_sampler(part.type, what)
    found = components.find(part.type, {}, f"{key}.{what}")
    if what == "actions" and not part.arguments and takes(found, *GENERATORS):
        return find_sampler(found, what)
    policy = "; or name a function of (observation, generator), with parameters of these names"
    instead = policy if what == "actions" else ""
    return find_sampler(make_part(part, {}, f"{key}.{what}", Sampler, instead), what)


def generation_options(config: Config) -> dict[str, Any]:
    """Return the options of generation.

    Raises:
        ConfigError: A sampler does not fit.
    """
    parameters = build_sampler(config.sampler.parameters, "parameters")
    if isinstance(parameters, Breed) and config.dataset.produce != "online":
        raise ConfigError(f"sampler.{BREED_ALONE}")
    return {
        **options_in(config.dataset, GenerationOptions),
        "seed": config.seed,
        "env_kwargs": environment_arguments(config),
        "actions": build_sampler(config.sampler.actions, "actions"),
        "parameters": parameters,
    }


def answering_network(config: Config) -> Asked:
    """Return the network that answers a simulation while samples are generated without a training.

    The training of this configuration would begin with the same network, so that its samples are the same.
    """

    def make() -> Predictor:
        spec = fields_for(simulation_spec(config), config.outputs)
        network = build_network(config, spec)
        around = build_transforms(config, network, spec), build_changes(config, network, spec)
        return as_predictor(config, network, spec, *around)

    return Asked(make)
