"""`AgentTrainer`: training of an agent that acts in environments and learns from what happens, in one visible loop."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv

from physgym import limits
from physgym.closed_on_exit import ClosedOnExit
from physgym.errors import ConfigError
from physgym.events import Callback
from physgym.generator_state import generator_words
from physgym.interrupt import Interrupt
from physgym.launch.base import Launcher
from physgym.naming import env_name
from physgym.placement import declared_metadata
from physgym.progress import say
from physgym.real_time import SOURCE, runs_in_real_time
from physgym.registration import EnvLike
from physgym.rl.agent import Agent
from physgym.rl.agent_checkpoint import AgentCheckpoints
from physgym.rl.agent_envs import AgentEnvs, make_envs
from physgym.rl.agent_parts import AgentForm, make_parts
from physgym.rl.agent_policy import AgentPolicy
from physgym.rl.agent_records import AgentRecords
from physgym.rl.agent_settings import AgentSettings
from physgym.rl.preprocessing import Preprocessing
from physgym.rl.recorded_code import RecordedCode, code_of_environment
from physgym.rl.recordings import Recordings
from physgym.rl.replay_files import ReplayDiffers
from physgym.rl.saved_training import saved_training
from physgym.single import MACHINE, SINGLE, single_of
from physgym.training.callback_list import CallbackList
from physgym.training.history import History, TrainingProgress
from physgym.training.loggers import Logger
from physgym.training.ranks import Ranks
from physgym.training.resume import versions
from physgym.training.tensorboard_logger import TensorBoard
from physgym.training.training_session import TrainingSession, check_session
from physgym.vector.arguments import Arguments
from physgym.vector.make import env_factory
from physgym.vector.vector_env import SocketVectorEnv
from physgym.viewing.shown import UNSEEN, LiveView, ViewLike, show, view_of

log = logging.getLogger(__name__)

SCORE = "evaluation_return"  # by which the best checkpoint is chosen

NOT_THE_SAME = (
    "the environments do not do again what they did before the training was interrupted (%s). The training continues "
    "with new episodes, and with all that was recorded; its result is another one than without the interruption"
)


class AgentTrainer(ClosedOnExit):
    """Trains an agent that acts in environments, or learns from recordings.

        trainer = AgentTrainer("dqn", "CartPole-v1", steps=50_000, session="sessions/cartpole")
        history = trainer.fit()

    Every environment runs episodes of its own, each with a seed that is a function of the seed and of the number of the
    episode. The environments step together, and the agent learns meanwhile from what was there before. So the result
    is a function of the arguments, for any number of workers, on the CPU bit for bit.

    Args:
        agent: Who is trained: a name such as "dqn" or "sac", ``module:Class``, ``{"type": name, "arguments": {...}}``,
            or an `Agent`.
        env: Where it acts: a registered id, ``module:Class``, a callable that makes an environment, or a vector
            environment of your own, which is closed in the end; None to learn from `cache` alone.
        steps: Steps of all environments together; steps of the optimization where there is no environment.
        env_kwargs: Arguments of the constructor of the environments, or a list of them, one for each environment.
        agent_kwargs: Arguments of the constructor of the agent.
        num_envs: Environments that it acts in at once.
        num_workers: Processes that these run in, 0 for none; None for what is fastest, as `physgym.SocketVectorEnv`
            finds it out.
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
        evaluate_kwargs: Arguments of the constructor of the environments of evaluations, besides those in `env_kwargs`
            or in place of them.
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
        allow_changed_code: Whether a session may be continued though the code of its simulation has changed.
        view: How the environments are shown while the agent learns, such as "web"; ``physgym watch`` finds them by
            the session.
        launcher: Has the workers of the environments started elsewhere, as a `physgym.machines.reception.Reception`;
            each hosts one environment then, unless `num_workers` says how many there are. Evaluations run here.

    Attributes:
        settings: The numbers.
        closed: Whether the environments are closed.
        env: As given.
        given: The arguments `env_kwargs`, `evaluate_kwargs` and `cache`.
        stopping: Whether `stop` was called.
        ranks: The process that trains, and its device.

    Raises:
        ConfigError: Arguments contradict each other, or the agent does not fit the environment.
        CheckpointError: The checkpoint to resume from is missing, damaged, or of another training.
        DatasetError: The replay does not belong to the checkpoint.
        ChangedCode: The replay was recorded of other code of the environment.
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
        cache: Recordings | None = None,
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
        view: ViewLike = UNSEEN,
        launcher: Launcher[Any] | None = None,
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
        self.env, self.given = env, (env_kwargs, evaluate_kwargs, cache)
        form = AgentForm(
            agent,
            dict(agent_kwargs or {}),
            preprocessing if isinstance(preprocessing, Preprocessing) else Preprocessing(preprocessing),
            (normalize_observations, normalize_rewards),
            device,
        )
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
        _check_evaluated(env, env_kwargs, evaluate_every)
        networks = self._session.subfolder("networks")
        self._checkpoints = AgentCheckpoints(networks, keep) if networks is not None and save_every else None
        own = [] if any(isinstance(one, Logger) for one in callbacks) else [self._session.subfolder("stats")]
        self._callbacks = CallbackList((*callbacks, *(TensorBoard(one) for one in own if one is not None)))
        self._progress, self.stopping = TrainingProgress(), False
        self.closed = self._midway = False
        saved = None if resume is False else saved_training(resume, networks)
        if saved is not None:
            saved.check(self._kept(form))
        options = {"timeout": timeout, "on_error": on_error, "launcher": launcher}
        venv = self._vector(env, env_kwargs, form.preprocessing, num_workers, **options)
        try:
            self._show(venv, view_of(view))
            self._parts = make_parts(
                form,
                self.settings,
                None if venv is None else AgentEnvs(venv, numbered=venv is not env),
                cache,
                replay=self.replay_folder,
                position=None if resume is False else {"rows": 0} if saved is None else saved.position,
                source=_source(env, venv),
                code=None if self.replay_folder is None else _code(venv, allow_changed=allow_changed_code),
            )
            if saved is not None:
                saved.resume(self._parts, self._progress)
                self._callbacks.load_state_dict(saved.state["callbacks"])
        except BaseException:
            if venv is not None:
                venv.close()
            raise
        self._resumed = None if saved is None else saved.state
        self._form, self._shown = form, progress

    def _vector(
        self,
        env: Any,
        env_kwargs: Arguments,
        preprocessing: Preprocessing,
        num_workers: int | str | None,
        **options: Any,
    ) -> VectorEnv[Any, Any, Any] | None:
        """Return the vector environment; the one that was given, if it is one."""
        limit = self.settings.limit
        if env is None:
            return None
        if not isinstance(env, VectorEnv):
            return make_envs(
                env,
                env_kwargs,
                self.settings.num_envs,
                preprocessing if preprocessing.config else None,
                seed=self.settings.seed,
                limit=limit,
                num_workers=num_workers,
                **options,
            )
        if env_kwargs is not None or limit is not None or preprocessing.config or options["launcher"] is not None:
            raise ConfigError(
                "env_kwargs, preprocessing, max_episode_steps and launcher are for environments that the trainer "
                "makes; the vector environment that was given has its own"
            )
        return env

    def _show(self, venv: VectorEnv[Any, Any, Any] | None, view: LiveView) -> None:
        """Let the environments be watched, and open what they are shown in.

        Raises:
            ConfigError: They are to be shown, and cannot be.
        """
        if isinstance(venv, SocketVectorEnv):
            env, names = self.env, [] if self.session is None else [str(self.session)]
            title = type(venv).__name__ if env is None or isinstance(env, VectorEnv) else env_name(env)
            show(venv.views, view, title, names)
        elif view.sink is not None:
            what = "the agent learns from recordings alone" if venv is None else f"{type(venv).__name__} cannot do that"
            raise ConfigError(f"there is no environment to show: {what}. Leave view out")

    def _kept(self, form: AgentForm) -> dict[str, Any]:
        """Return what must be the same for a training to be continued, as JSON data."""
        return {**self.settings.kept, **form.kept}

    # --- where it is

    @property
    def policy(self) -> AgentPolicy:
        """Return the agent as it acts without exploration, with its preprocessing."""
        return self._parts.policy

    @property
    def agent(self) -> Agent:
        """Return the agent."""
        return self._parts.policy.agent

    @property
    def session(self) -> Path | None:
        """Return the session's folder, None without one."""
        return self._session.folder

    @property
    def replay_folder(self) -> Path | None:
        """Return the folder of the replay; None where it is in memory alone, or where nothing acts."""
        return None if self.env is None else self._session.subfolder("replay")

    @property
    def allow_changed_code(self) -> bool:
        """Return whether a session may be continued though the code of its simulation has changed."""
        return self._session.allow_changed_code

    @property
    def device(self) -> torch.device:
        """Return where the agent computes."""
        return self.ranks.device

    @property
    def history(self) -> History:
        """Return the record of what was done so far."""
        return self._progress.history

    @property
    def step(self) -> int:
        """Return the steps so far."""
        return self._progress.step

    @property
    def epoch(self) -> int:
        """Return the number of records so far."""
        return self._progress.epoch

    @property
    def epochs(self) -> int:
        """Return the number of records of the whole training."""
        return -(-self.settings.steps // self.settings.report_every)

    def stop(self, reason: str) -> None:
        """End the training after the event that is being called; ``history.stopped`` gets the reason."""
        self.stopping, self.history.stopped = True, reason

    # --- the loop

    def fit(self) -> History:
        """Train until all steps are made; once.

        Ctrl-C ends it after the current step: a checkpoint is saved where there is a session, and
        ``history.interrupted`` is set. To continue, make the trainer again with ``resume=True``.

        Returns:
            The history, `AgentTrainer.history`.

        Raises:
            DivergedError: A loss is not finite.
            SampleError: What an environment returned does not fit its spaces, or is not finite.
            WorkerError: A worker died or did not answer, or an environment raised.
            CheckpointError: A checkpoint cannot be written.
            DatasetError: The replay cannot be written.
        """
        if self.closed:
            raise ConfigError("the training has ended, and its environments are closed; make it again with resume=True")
        with self._session.recorded(self, self._callbacks):
            return self._fit()

    def _fit(self) -> History:
        self._progress.begin(self.settings.seed)
        records = AgentRecords(self.settings.steps, self.step, enabled=self._shown)
        gc.collect()
        gc.freeze()  # looking through all of torch's objects again and again takes a tenth of the time
        try:
            with Interrupt() as interrupt:
                try:
                    self._train(interrupt, records)
                except KeyboardInterrupt:
                    self.history.interrupted = self.step < self.settings.steps
            if not self._midway:
                self._save()
            self._callbacks.emit("train_end", self, self.history)
        finally:
            gc.unfreeze()
            records.close()
            self.close()
        if self.history.interrupted and self._checkpoints is not None:
            say(f"interrupted at step {self.step}; continue with resume=True, or physgym resume {self.session}")
        return self.history

    def _train(self, interrupt: Interrupt, records: AgentRecords) -> None:
        """Run the training loop."""
        if self._checkpoints is not None:
            self._checkpoints.begin(new=self._resumed is None)
        self._callbacks.emit("train_begin", self)
        with interrupt.held():
            self._begin()
        while self.step < self.settings.steps and not self.stopping:
            with interrupt.held():
                self._midway = True
                before, self._progress.step = self.step, self.step + self._make_step()
                self._midway = False
                records.show(self.step)
                evaluates = self._due(before, self.settings.evaluate_every)
                if evaluates or self._due(before, self.settings.report_every):
                    self._report(records, evaluates=evaluates)
                if self._due(before, self.settings.save_every) and self.step < self.settings.steps:
                    self._save()
        if not self.history.epochs or self.history.epochs[-1]["step"] < self.step:
            self._report(records, evaluates=self.settings.evaluate_every > 0)

    def _make_step(self) -> int:
        """Let the environments step once, and the agent learn meanwhile; return how many steps these were."""
        parts, settings = self._parts, self.settings
        if parts.acting is None:
            parts.learning.step()
            return 1
        parts.acting.send()
        parts.learning.make_steps()
        try:
            made = parts.acting.receive()
        except ReplayDiffers as error:
            log.warning(NOT_THE_SAME, error)
            parts.acting.begin_anew()
            made = 0
        now = self.step + made
        times = now // settings.learn_every - self.step // settings.learn_every
        # the first step is a transition only once the next observation is there
        learns = now >= settings.learning_starts and now > settings.num_envs
        parts.learning.owed = times * settings.gradient_steps if learns else 0
        return made

    def _due(self, before: int, every: int) -> bool:
        """Return whether a multiple of a number of steps was reached since there were so many."""
        return every > 0 and self.step // every > before // every

    def _begin(self) -> None:
        """Begin the episodes, or continue with them."""
        acting = self._parts.acting
        if acting is None:
            return
        if self._resumed is None:
            acting.begin()
            return
        if problem := acting.load_state_dict(self._resumed["acting"]):
            log.warning(NOT_THE_SAME, problem)

    def _report(self, records: AgentRecords, *, evaluates: bool) -> None:
        """Record what happened since the last time, and what an evaluation gives."""
        acting = self._parts.acting
        returns, lengths = ([], []) if acting is None else acting.take_episodes()
        losses = self._parts.learning.take_means()
        record = records.take(self.step, returns, lengths, losses, self.agent.exploration)
        if evaluates:
            record |= {f"evaluation_{name}": value for name, value in self._evaluate().items()}
        self._progress.end_epoch(record)
        self._callbacks.emit("epoch_end", self, self.history.epochs[-1])

    def _evaluate(self) -> dict[str, float]:
        """Return the means over episodes without exploration."""
        from physgym.rl.evaluation import evaluate_agent

        acting, evaluating, _ = self.given
        return evaluate_agent(
            self.policy,
            self.env,  # type: ignore[arg-type]  # which was checked
            episodes=self.settings.evaluate_episodes,
            seed=self.settings.seed,
            part="validation",
            num_envs=min(self.settings.num_envs, self.settings.evaluate_episodes),
            env_kwargs={**(acting if isinstance(acting, Mapping) else {}), **(evaluating or {})},
        ).values

    # --- checkpoints

    def _save(self) -> None:
        """Save a checkpoint, unless there is one of this step already, or there are to be none."""
        if self._checkpoints is None or self._checkpoints.saved == self.step:
            return
        acting = self._parts.acting
        if acting is not None:
            acting.replay.commit()
        progress: dict[str, Any] = {"replay_rows": 0 if acting is None else acting.replay.rows}
        last = self.history.epochs[-1] if self.history.epochs else {}
        if last.get("step") == self.step:
            progress["values"] = dict(last)
            if SCORE in last:
                progress |= {"score": -last[SCORE], "monitor": SCORE}
        self._checkpoints.save(self.policy, self.state_dict(), step=self.step, epoch=self.epoch, **progress)
        if acting is not None:
            acting.replay.forget(self._checkpoints.positions())

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to continue, but for the agent."""
        parts = self._parts
        return {
            "settings": self._kept(self._form),
            **self._progress.state_dict(),
            "acting": None if parts.acting is None else parts.acting.state_dict(),
            "learning": parts.learning.state_dict(),
            "streams": {name: generator_words(one) for name, one in parts.generators.items()},
            "threads": torch.get_num_threads(),
            "versions": versions(),
            "callbacks": self._callbacks.state_dict(),
        }

    def close(self) -> None:
        """Close the environments and complete the replay; calling it again does no harm."""
        if self.closed:
            return
        self.closed = True
        acting = self._parts.acting
        try:
            if acting is not None:
                try:
                    acting.replay.close()
                finally:
                    acting.envs.close()
        finally:
            self._callbacks.close()
            if self._checkpoints is not None:
                self._checkpoints.close()


def _check_evaluated(env: Any, env_kwargs: Arguments, every: int) -> None:
    """Raise ConfigError where there are to be evaluations, and it is not known how to make an environment for them."""
    if every and not (isinstance(env_kwargs, Mapping) or env_kwargs is None):
        raise ConfigError("evaluations need one environment: env_kwargs are a list; give evaluate_every=0")
    if every and (env is None or isinstance(env, VectorEnv)):
        raise ConfigError(
            "evaluations need an environment of their own, which is made of its id or class; give evaluate_every=0, "
            "and call physgym.rl.evaluation.evaluate_agent in a callback"
        )
    if every and single_of(declared_metadata(env_factory(env, {}))) == MACHINE:
        raise ConfigError(
            f"evaluations need an environment of their own, and a machine holds one {env_name(env)} alone ({SINGLE}); "
            "give evaluate_every=0, and evaluate the agent after the training (physgym evaluate)"
        )


def _code(made: VectorEnv[Any, Any, Any] | None, *, allow_changed: bool) -> RecordedCode | None:
    return None if made is None else RecordedCode(code_of_environment(made), allow_changed=allow_changed)


def _source(env: EnvLike | VectorEnv[Any, Any, Any] | None, made: VectorEnv[Any, Any, Any] | None) -> dict[str, Any]:
    """Return what a replay says of where its samples come from."""
    if env is None or made is None:
        return {}
    named = {} if isinstance(env, VectorEnv) else {"recorded": env_name(env)}
    return named | ({SOURCE: True} if runs_in_real_time(made.metadata) else {})
