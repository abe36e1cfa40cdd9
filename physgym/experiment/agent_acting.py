"""The agent of a session in its environment, step by step or to be evaluated; or compared with recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physgym.code.record import check_same, recorded_code
from physgym.code.search import code_of
from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import has_partitions
from physgym.data.description import Mode
from physgym.errors import ConfigError
from physgym.experiment.config import check_config
from physgym.experiment.record import read_config
from physgym.experiment.schema import Config
from physgym.experiment.sections import options_in
from physgym.experiment.session import CONFIG
from physgym.naming import env_name
from physgym.nn.devices import as_device
from physgym.rl.agent_checkpoint import load_agent
from physgym.rl.agent_policy import AgentPolicy
from physgym.rl.agent_run import AgentRun, AgentRunner
from physgym.rl.cache import TransitionCache
from physgym.rl.evaluation import AgentEvaluation, evaluate_agent
from physgym.rl.offline import OfflineEvaluation, evaluate_offline
from physgym.rl.recorder import Recorder
from physgym.running.options import RunnerOptions
from physgym.running.save_frames import SaveFrames
from physgym.storage.location import place
from physgym.training.checkpoint_folders import as_which
from physgym.vector.make import env_factories
from physgym.viewing.shown import LiveView


def run_agent_of(
    session: Path,
    config: Config,
    *,
    steps: int,
    which: str | None,
    seed: int,
    record: str | Path | None,
    frames: Path | None,
    resume: bool,
    view: LiveView,
    allow_changed_code: bool,
) -> AgentRun:
    """Let the agent of a session act in its environment, in this process and without exploration.

    Args:
        session: The folder.
        config: Its configuration.
        steps: How many; 0 continues until Ctrl-C.
        which: Which checkpoint; None for the last one.
        seed: Of the run.
        record: Place of a recording; None for none.
        frames: Folder for a picture of each step.
        resume: Whether to continue the recording.
        view: How the environment is shown.
        allow_changed_code: Whether it may be of other code than what the agent learned in.

    Raises:
        ConfigError: The session names no environment, or it does not fit the agent.
        CheckpointError: There is no such checkpoint, or it is damaged.
        DatasetError: The recording is there already.
    """
    name = _environment(session, config, allow_changed_code=allow_changed_code)
    policy = _policy(session, config, which)
    pictures = {} if frames is None else {"render_mode": "rgb_array"}
    env = env_factories(name, [{**_arguments(config), **pictures}])[0]()
    first = 0
    if record is not None:
        if resume and has_partitions(place(record), "training"):
            first = int(SampleDataset(record).index("episode").max(initial=-1)) + 1
        assert config.agent is not None
        try:
            env = Recorder(  # type: ignore[assignment]
                env, record, infos=config.agent.infos, resume=resume, allow_changed_code=allow_changed_code
            )
        except BaseException:
            env.close()
            raise
    places = [] if record is None else [str(record)]
    with AgentRunner(policy, env, seed=seed, first=first, view=view, title=env_name(name), places=places) as runner:
        callbacks = [] if frames is None else [SaveFrames(frames, resume=resume)]
        return runner.run(steps or None, callbacks=callbacks)


def evaluate_agent_of(
    session: Path,
    *,
    episodes: int,
    which: str | None = None,
    seed: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    num_envs: int = 8,
    num_workers: int | None = None,
    device: str | None = None,
    allow_changed_code: bool = False,
) -> AgentEvaluation:
    """Let the agent of a session act without exploration, in episodes that its training has not seen.

    Args:
        session: The folder.
        episodes: How many.
        which: Which checkpoint; None for the last one.
        seed: Seed of the evaluation; by default ``runner.seed``. Equal seeds give equal episodes.
        arguments: Further arguments of the environment, such as tracks that were held out.
        num_envs: Environments at once.
        num_workers: Processes that they run in; by default as the environment needs it, else 0 for this one.
        device: Where to compute; by default as the configuration says.
        allow_changed_code: Whether the environment may be of other code than what the agent learned in.

    Raises:
        ConfigError: The session names no environment, or it does not fit the agent.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    config = _config(session, device)
    name = _environment(session, config, allow_changed_code=allow_changed_code)
    assert config.agent is not None
    usual = _arguments(config) | config.agent.evaluate_arguments
    return evaluate_agent(
        _policy(session, config, which),
        name,
        episodes=episodes,
        seed=options_in(config.runner, RunnerOptions)["seed"] if seed is None else seed,
        num_envs=num_envs,
        num_workers=num_workers,
        env_kwargs={**usual, **(arguments or {})},
    )


def compare_agent_of(
    session: Path,
    data: Sequence[str],
    *,
    mode: Mode = "training",
    which: str | None = None,
    device: str | None = None,
) -> OfflineEvaluation:
    """Compare what the agent of a session expects with the returns in recordings; no environment is needed.

    Args:
        session: The folder.
        data: Folders of recordings, or ``s3://bucket/prefix``.
        mode: Their part.
        which: Which checkpoint; None for the last one.
        device: Where to compute; by default as the configuration says.

    Raises:
        ConfigError: The recordings are of other spaces than the agent's.
        CheckpointError: There is no such checkpoint, or it is damaged.
        DatasetError: There are no such recordings.
    """
    config = _config(session, device)
    policy = _policy(session, config, which)
    cache = TransitionCache(
        list(data),
        policy.observation_space,
        policy.action_space,
        mode=mode,
        preprocessing=policy.preprocessing,
        stack=policy.stack,
        device=policy.agent.device,
    )
    return evaluate_offline(policy.agent, cache, normalization=policy.normalization)


def _config(session: Path, device: str | None) -> Config:
    """Return the configuration of a session, with another device where one is given."""
    config = check_config(read_config(session), str(session / CONFIG))
    return config if device is None else config.model_copy(update={"device": device})


def _policy(session: Path, config: Config, which: str | None) -> AgentPolicy:
    return load_agent(session, as_which(which or "last"), device=str(as_device(config.device)))


def _arguments(config: Config) -> dict[str, Any]:
    assert config.environment is not None
    found = config.environment.arguments
    assert isinstance(found, dict)  # as the schema has it for agents
    return found


def _environment(session: Path, config: Config, *, allow_changed_code: bool) -> str:
    """Return the name of the environment, whose code is compared with that in which the agent learned."""
    if config.environment is None:
        raise ConfigError(
            "environment: missing; the agent has learned from recordings alone. Name what it is to act in, as in "
            "environment.id=CartPole-v1"
        )
    name, arguments = config.environment.id, config.environment.arguments
    learned = read_config(session).get("environment")
    if (recorded := recorded_code(session)) is not None and learned is not None and learned.get("id") == name:
        check_same(recorded, code_of(name, arguments), f"the agent of {session}", allow=allow_changed_code)
    return name
