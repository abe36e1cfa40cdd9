"""`AgentTrainer`: training of an agent that acts in environments and learns from what happens, in one visible loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from physgym import limits
from physgym.errors import CheckpointError, ConfigError
from physgym.events import Callback
from physgym.generator_state import generator_from, generator_words
from physgym.interrupt import Interrupt
from physgym.naming import env_name
from physgym.progress import say
from physgym.registration import EnvLike
from physgym.rl.acting import Acting
from physgym.rl.agent import Agent
from physgym.rl.agent_checkpoint import AgentCheckpoints, read_agent_training, take_state
from physgym.rl.agent_envs import AgentEnvs, make_envs
from physgym.rl.agent_making import make_agent
from physgym.rl.agent_policy import AgentPolicy
from physgym.rl.agent_records import AgentRecords
from physgym.rl.agent_settings import AgentSettings
from physgym.rl.frame_stacks import FrameStacks
from physgym.rl.learning import Learning
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.replay import Replay
from physgym.rl.replay_files import ReplayDiffers
from physgym.rl.running_normalization import RunningNormalization
from physgym.training.callback_list import CallbackList
from physgym.training.checkpoint_folders import find_checkpoint, list_checkpoints
from physgym.training.history import History, TrainingProgress
from physgym.training.loggers import Logger
from physgym.training.ranks import Ranks
from physgym.training.resume import versions
from physgym.training.tensorboard_logger import TensorBoard
from physgym.training.training_session import TrainingSession, check_session
from physgym.vector.arguments import Arguments

log = logging.getLogger(__name__)

ACTIONS, BATCHES = range(2)  # random streams of a training


class AgentTrainer:
    """Trains an agent that acts in environments, or learns from recordings.

        trainer = AgentTrainer("dqn", "CartPole-v1", steps=50_000, session="sessions/cartpole")
        history = trainer.fit()

    Every environment runs episodes of its own, each with a seed that is a function of the seed and of the number of the
    episode. The environments step together, and the agent learns meanwhile from what was there before. So the result
    is a function of the arguments, whatever the number of workers, on the CPU bit for bit.

    Args:
        agent: Who is trained: a name such as "dqn" or "sac", ``module:Class``, ``{"type": name, "arguments": {...}}``,
            or an `Agent`.
        env: Where it acts: a registered id, ``module:Class``, a callable that makes an environment, or a vector
            environment of one's own, which is closed in the end; None to learn from `cache` alone.
        steps: Steps of all environments together; steps of the optimization where there is no environment.
        env_kwargs: Arguments of the constructor of the environments, or a list of them, one for each environment.
        agent_kwargs: Arguments of the constructor of the agent.
        num_envs: Environments that it acts in at once.
        num_workers: Processes that these run in, see `physgym.SocketVectorEnv`; 0 for none, None for one a core,
            "auto" to find out what is fastest.
        learning_starts: Steps before the first one of the optimization; actions are random until then.
        learn_every: Steps from one time of learning to the next; by default as many as there are environments.
        gradient_steps: Steps of the optimization each time.
        batch_size: Transitions of a step of the optimization.
        capacity: Rows of the replay that can be drawn: steps, and last observations of episodes. Older ones are
            deleted, whole files of them, once no checkpoint needs them. None keeps all.
        preprocessing: Wrappers around the environments, see `Preprocessing`.
        stack: Observations that the agent sees together, the newest last.
        normalize_observations: Whether observations are normalized by their running moments.
        normalize_rewards: Whether rewards are normalized by the running deviation of returns.
        max_episode_steps: Steps after which an episode is truncated; or ``{"first": 200, "last": 2000, "episodes":
            500}``: so many in the first episode, growing to so many in that of this number. None as the environment
            has it.
        infos: Names of infos that the replay keeps.
        cache: Recordings to learn from, folders or ``s3://bucket/prefix``, in place of the environment or with it.
        cache_share: Part of a batch that is from the recordings.
        evaluate_every: Steps from one evaluation without exploration to the next; 0 for none. Its values enter the
            record with the prefix ``evaluation_``.
        evaluate_episodes: Episodes of an evaluation, always the same ones.
        evaluate_kwargs: Arguments of the constructor of the environments of evaluations, in place of those in
            `env_kwargs`.
        report_every: Steps from one record to the next, an epoch of `History`.
        callbacks: Called at the events; a `Logger` among them takes the place of TensorBoard in the session.
        session: Folder for checkpoints (``networks/``), the replay (``replay/``) and curves (``stats/``); None writes
            nothing.
        seed: Of all that is drawn.
        save_every: Steps from one checkpoint to the next; 0 for none, not even in the end.
        keep: How many of the newest checkpoints to keep.
        resume: True continues from the last checkpoint of the session if there is one; a path from that checkpoint, or
            the last one in that folder. Everything else must be given as it was, but for `steps`.
        device: Where the agent computes; "auto" takes CUDA, else Apple's MPS, else the CPU.
        timeout: Seconds to wait for a worker.
        on_error: "raise", or "restart" a worker that dies, hangs or raises, see `physgym.SocketVectorEnv`.
        progress: Whether to show a progress bar.
        record: Whether the session gets the record that `physgym list` and `show` read.
        allow_changed_code: Whether a recorded session may be continued though the code of its simulation has changed.

    Attributes:
        policy: The agent as it acts without exploration, with its preprocessing.
        settings: The numbers.
        env: As given.
        stopping: Whether `stop` was called.
        ranks: The process that trains, and its device.

    Raises:
        ConfigError: Arguments contradict each other, or the agent does not fit the environment.
        CheckpointError: The checkpoint to resume from is missing, damaged, or of another training.
        DatasetError: The replay does not belong to the checkpoint.
        WorkerError: An environment's constructor raised.
    """

    def __init__(
        self,
        agent: str | Agent | Mapping[str, Any],
        env: EnvLike | VectorEnv[Any, Any, Any] | None = None,
        *,
        steps: int,
        env_kwargs: Arguments = None,
        agent_kwargs: Mapping[str, Any] | None = None,
        num_envs: int = 8,
        num_workers: int | str | None = None,
        learning_starts: int = 1000,
        learn_every: int | None = None,
        gradient_steps: int = 1,
        batch_size: int = 128,
        capacity: int | None = 100_000,
        preprocessing: Preprocessing | Sequence[str | Mapping[str, Any]] = (),
        stack: int = 1,
        normalize_observations: bool = False,
        normalize_rewards: bool = False,
        max_episode_steps: int | Mapping[str, Any] | None = None,
        infos: Sequence[str] = (),
        cache: Any = None,
        cache_share: float = 1.0,
        evaluate_every: int = 0,
        evaluate_episodes: int = 10,
        evaluate_kwargs: Mapping[str, Any] | None = None,
        report_every: int = 1000,
        callbacks: Sequence[Callback] = (),
        session: str | Path | None = None,
        seed: int = 0,
        save_every: int = 10_000,
        keep: int = 2,
        resume: bool | str | Path = False,
        device: str = "cpu",
        timeout: float = limits.TIMEOUT,
        on_error: str = "raise",
        progress: bool = True,
        record: bool = True,
        allow_changed_code: bool = False,
    ) -> None:
        self.settings = AgentSettings.of(
            steps=steps,
            num_envs=env.num_envs if isinstance(env, VectorEnv) else num_envs,
            learning_starts=learning_starts,
            learn_every=learn_every,
            gradient_steps=gradient_steps,
            batch_size=batch_size,
            capacity=capacity,
            stack=stack,
            infos=infos,
            cache_share=cache_share,
            max_episode_steps=max_episode_steps,
            evaluate_every=evaluate_every,
            evaluate_episodes=evaluate_episodes,
            report_every=report_every,
            save_every=save_every,
            keep=keep,
            seed=seed,
        )
        around = preprocessing if isinstance(preprocessing, Preprocessing) else Preprocessing(preprocessing)
        self.env = env
        folder = check_session(session)
        if resume is True and folder is None:
            raise ConfigError("resume=True looks for the last checkpoint in the session; give a session")
        self.ranks = Ranks(device)
        self.ranks.say_device(device)
        if self.ranks.size > 1:
            raise ConfigError("several processes train no agent together; start one, with num_workers for environments")
        self._session = TrainingSession(
            folder, self.ranks, new=resume is False, record=record, allow_changed_code=allow_changed_code
        )
        own = [] if self.session is None or any(isinstance(one, Logger) for one in callbacks) else [self.session]
        self._callbacks = CallbackList((*callbacks, *(TensorBoard(one / "stats") for one in own)))
        self._progress, self.stopping = TrainingProgress(), False
        self._generators = {part: np.random.default_rng((seed, number)) for number, part in enumerate(STREAMS)}
        saved = self.session is not None and save_every
        self._checkpoints = AgentCheckpoints(self.session / "networks", keep) if saved else None

        envs = self._envs(env, env_kwargs, around, num_workers=num_workers, timeout=timeout, on_error=on_error)
        try:
            self._acting, self._learning = self._parts(
                agent, agent_kwargs, envs, cache, normalize_observations, normalize_rewards, around, resume
            )
        except BaseException:
            if envs is not None:
                envs.close()
            raise
