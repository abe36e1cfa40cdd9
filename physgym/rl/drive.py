"""`drive`: a person acts in an environment, in real time, with the keys of a window, a web page or a gamepad."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from physgym.checks import integer, one_of, positive
from physgym.data.dataset import SampleDataset
from physgym.episode import episode_seed
from physgym.errors import ConfigError, DatasetError, SceneError
from physgym.interrupt import Interrupt
from physgym.naming import env_name
from physgym.placement import Env, build
from physgym.real_time import runs_in_real_time
from physgym.registration import EnvLike
from physgym.rl.gamepad import Gamepad
from physgym.rl.recorder import Recorder
from physgym.running.run_view import RunView
from physgym.scene.objects import Scene
from physgym.scene.sinks.table import WITH_RUN
from physgym.scene.sinks.vedo_window import display_problem
from physgym.spaces import Array, value_range
from physgym.vector.make import env_factory
from physgym.viewing.shown import LiveView, show
from physgym.worker.given_inputs import GivenInputs
from physgym.worker.machine_claims import claimed, release_machine
from physgym.worker.scene_offers import PresentScene

AXES = (("Left", "Right"), ("Down", "Up"), ("a", "d"), ("s", "w"))  # keys of the lowest and the highest value
STEP = 0.05  # s, of simulations that do not say how long a step is
RAMP = 0.25  # s, in which a key changes an action by half of its range
ROUNDING = 1e-9  # of an action
PAUSE = 1.0  # s between two episodes
HINT = 100  # steps of the first episode without any input
OPENED, LOOK = 2.0, 0.02  # s until what was opened must ask for pictures, and between two looks
CAMERA = "camera"
Say = Callable[[str], None]


@dataclass
class Drive:
    """Account of what a person has driven.

    Attributes:
        returns: Sum of the rewards of each episode.
        lengths: Steps of each episode.
        late: Steps that came later than in real time.
    """

    returns: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    late: int = 0


class PersonActs(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment whose actions are a person's: inputs of its scene, which shows the camera of the driver as well.

    An environment may name its actions and their keys in ``action_axes``: by name, the key of the lowest and that of
    the highest value.

    Args:
        env: The environment.
        seconds: Of a step.
        ramp: Seconds in which a key changes an action by half of its range; 0 for at once.

    Attributes:
        axes: Keys of the numbers of an action, by name.
        turned: -1 for those whose highest value is to the left, else 1.

    Raises:
        ConfigError: A person cannot give such actions.
    """

    def __init__(self, env: Env, seconds: float, ramp: float = RAMP) -> None:
        super().__init__(env)
        found = value_range(env.action_space)
        bounded = found is not None and bool(np.all(found.has_low) and np.all(found.has_high))
        if found is None or not bounded or len(env.action_space.shape or ()) > 1:
            raise ConfigError(
                "a person gives numbers between bounds, or one of several choices; the actions of "
                f"{type(env.unwrapped).__name__} are {env.action_space}"
            )
        self._low, self._high = (np.atleast_1d(np.asarray(end, np.float64)) for end in (found.low, found.high))
        self.axes = _axes(env, len(self._low))
        self.turned = {name: -1.0 if keys == ("Right", "Left") else 1.0 for name, keys in self.axes.items()}
        self._discrete = found.dtype.kind != "f"
        self._rest = np.clip(0.0, self._low, self._high)
        self._most = (self._high - self._low) * (seconds / (2 * ramp) if ramp else 1.0)  # by which a step changes it
        self._wanted, self._given = self._rest.copy(), self._rest.copy()
        self._seen: Any = None
        self._camera: Any = None

    def scene(self, scene: Scene) -> None:
        """Declare an input for each number of the action, and the picture of the camera."""
        for row, (name, keys) in enumerate(self.axes.items()):
            low, high = float(self._low[row]), float(self._high[row])
            scene.slider(name, low, high, default=float(self._rest[row]), keys=keys, springs=True)
        if self._picture() is not None:
            with contextlib.suppress(SceneError):  # the environment's own scene has it
                self._camera = scene.image(CAMERA)

    def update_scene(self, scene: Scene) -> None:
        """Show what the camera sees."""
        if self._camera is not None and (picture := self._picture()) is not None:
            self._camera.update(values=picture)

    def _picture(self) -> Array | None:
        space = self.env.observation_space
        if space.dtype == np.uint8 and len(space.shape or ()) == 3 and (space.shape or ())[2] == 3:
            return np.zeros(space.shape, np.uint8) if self._seen is None else np.asarray(self._seen)
        return None

    def take_input(self, name: str, value: Any) -> None:
        """Take what a person wants of an action from the next step on."""
        self._wanted[list(self.axes).index(name)] = float(value)

    def let_go(self) -> None:
        """Let the actions be at rest."""
        self._wanted, self._given = self._rest.copy(), self._rest.copy()

    def next_action(self) -> Any:
        """Return the action of the next step, nearer to what the person wants."""
        space = self.env.action_space
        if self._discrete:
            whole = np.rint(self._wanted).astype(space.dtype)
            return whole.reshape(space.shape) if space.shape else whole[0]
        change = self._wanted - self._given
        near = np.abs(change) <= self._most + ROUNDING
        self._given = np.where(near, self._wanted, self._given + np.sign(change) * self._most)
        return self._given.astype(space.dtype).reshape(space.shape)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, at rest."""
        self.let_go()
        self._seen, info = self.env.reset(seed=seed, options=options)
        return self._seen, info

    def step(self, action: Any = None) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Make a step with the person's action, in place of the given one."""
        self._seen, *rest = self.env.step(self.next_action())
        return (self._seen, *rest)


@dataclass
class _Clock:
    """Steps in real time.

    Attributes:
        seconds: Of a step; 0 where the simulator has a clock of its own.
        late: Steps that could not be made in time.
    """

    seconds: float
    late: int = 0
    due: float = 0.0

    def start(self) -> None:
        self.due = time.monotonic()

    def wait(self) -> None:
        """Wait until the next step is due; after a long pause time starts again."""
        self.due += self.seconds
        now = time.monotonic()
        if now > self.due + self.seconds:
            self.late += bool(self.seconds)
            self.due = now
        elif self.due > now:
            time.sleep(self.due - now)


def drive(
    env: EnvLike,
    *,
    env_kwargs: Mapping[str, Any] | None = None,
    record: str | Path | None = None,
    infos: Sequence[str] = (),
    episodes: int | None = None,
    seed: int = 0,
    resume: bool = False,
    view: str = "vedo",
    gamepad: bool = False,
    ramp: float = RAMP,
    say: Say = print,
    allow_changed_code: bool = False,
) -> Drive:
    """Let a person act in an environment in real time, and record what he does as `physgym.Recorder` records an agent.

    The window takes keys while it has the focus: arrows, or what the environment names in ``action_axes``; the page has
    sliders. It ends when the window is closed, with Ctrl-C, or after so many episodes. What was recorded is complete.

    Args:
        env: Registered id, `EnvSpec`, or a callable that makes the environment.
        env_kwargs: Arguments of its constructor.
        record: Folder of a dataset; None records nothing. Its source says ``"acted_by": "person"``.
        infos: Entries of the info to record.
        episodes: After how many it ends; None for no end.
        seed: Seed from which those of the episodes follow.
        resume: Continue the dataset.
        view: "vedo", a window, or "web", a page in a browser.
        gamepad: Whether a gamepad acts too, with the axes of its sticks.
        ramp: Seconds in which a key changes an action by half of its range.
        say: Takes lines for the person.
        allow_changed_code: Continue what an environment of other code has recorded.

    Returns:
        What was driven.

    Raises:
        ConfigError: An argument is wrong, no window can be opened, there is no gamepad, or a person cannot give such
            actions.
        DatasetError: There are samples already, and `resume` is not set, or the disk refuses.
        ChangedCode: What is continued was recorded of other code.
    """
    one_of("view", view, WITH_RUN)
    episodes = None if episodes is None else integer("episodes", episodes, 1)
    seed, ramp = integer("seed", seed, 0), ramp if ramp == 0 else positive("ramp", ramp)
    if view == "vedo":
        _check_display()
    with contextlib.ExitStack() as stack:
        pad = stack.enter_context(Gamepad(say)) if gamepad else None
        made = claimed(build(env_factory(env, dict(env_kwargs or {})), 0, 1))
        stack.callback(release_machine, made)
        stack.callback(lambda: closed.close())
        closed: Env = made
        real_time, seconds = runs_in_real_time(made.metadata), step_seconds(made)
        first = _episodes_in(record) if resume and record is not None else 0  # whose seeds go on
        if record is not None:
            closed = made = Recorder(  # type: ignore[assignment]
                made, record, infos=infos, resume=resume, acted_by="person", allow_changed_code=allow_changed_code
            )
        person = PersonActs(made, seconds, ramp)
        closed = given = GivenInputs(person)
        seat = stack.enter_context(contextlib.closing(DriverView(given)))
        seat.open(view, f"drive {env_name(env)}")
        say(_help(person, view, pad))
        session = _Driving(given, person, seat, pad, _Clock(0.0 if real_time else seconds), say)
        with Interrupt() as interrupt:
            return session.run(seed, first, episodes, interrupt)


class DriverView(RunView):
    """Window or page in which a person sees the environment, and from which inputs come.

    Args:
        given: The environment.
    """

    def __init__(self, given: GivenInputs) -> None:
        def give(changes: Sequence[tuple[int, str, Any]]) -> None:
            for _, name, value in changes:
                given.give_input(name, value)

        super().__init__(lambda: PresentScene(lambda: given), give=give)
        self.views.accept(given.given_inputs)

    def open(self, view: str, title: str) -> None:
        """Open the window or the page.

        Raises:
            ConfigError: It does not open.
        """
        show(self.views, LiveView(view), title)
        end = time.monotonic() + OPENED
        while not self.watched:
            if time.monotonic() > end:
                raise ConfigError(f"nothing shows the simulation: --view {view} does not open")
            time.sleep(LOOK)
            self.attend()

    @property
    def watched(self) -> bool:
        """Return whether it is open."""
        return bool(self._offers.watched)

    def stepped(self, episode: int, step: int) -> None:
        """Offer a picture after a step."""
        self._offers.made(0, episode, step, None)


@dataclass
class _Driving:
    """A person who drives.

    Attributes:
        given: The environment.
        person: The layer of it with the person's actions.
        seat: What shows it.
        pad: A gamepad.
        clock: Paces the steps.
        say: Takes lines for the person.
        moved: Whether anything has come of the person.
        sticks: Last value of each axis of the gamepad.
    """

    given: GivenInputs
    person: PersonActs
    seat: DriverView
    pad: Gamepad | None
    clock: _Clock
    say: Say
    moved: bool = False
    sticks: dict[str, float] = field(default_factory=dict)

    def run(self, seed: int, first: int, episodes: int | None, interrupt: Interrupt) -> Drive:
        """Drive until the end; `first` is the number of the first episode, of which its seed is a function."""
        driven, over = Drive(), True
        while over and (episodes is None or len(driven.lengths) < episodes):
            over = self._episode(episode_seed(seed, first + len(driven.lengths)), driven, interrupt)
        driven.late = self.clock.late
        if driven.late > sum(driven.lengths) / 20:
            self.say(f"{driven.late} of {sum(driven.lengths)} steps came late: this machine is slow or busy")
        return driven

    def _episode(self, seed: int, driven: Drive, interrupt: Interrupt) -> bool:
        """Drive an episode; return whether it came to its end, before the person's."""
        number, over = len(driven.lengths), False
        driven.returns.append(0.0)
        driven.lengths.append(0)
        try:
            time.sleep(PAUSE if number else 0.0)
            self.given.reset(seed=seed)
            self.clock.start()
            while not over:
                self._listen()
                if not self.seat.watched:
                    break
                with interrupt.held():
                    _, reward, terminated, truncated, _ = self.given.step(None)
                    driven.returns[-1] += float(reward)
                    driven.lengths[-1] += 1
                    over = bool(terminated or truncated)
                self.seat.stepped(number, driven.lengths[-1] - 1)
                self._hint(driven)
                self.clock.wait()
        except KeyboardInterrupt:
            over = False
        self.say(f"episode {number}: {driven.lengths[-1]} steps, return {driven.returns[-1]:.5g}")
        return over

    def _listen(self) -> None:
        """Take what the person wants."""
        views = self.seat.views
        if self.clock.seconds == 0 and views.paused:
            views.control("resume")
            self.say("the simulator has a clock of its own, which cannot be stopped")
        self.seat.attend()
        if self.pad is None:
            return
        for name, value in zip(self.person.axes, self.pad.values(len(self.person.axes)), strict=False):
            if self.sticks.get(name) != value:  # else keys count
                self.sticks[name] = value
                one = self.given.given_inputs[name]
                self.given.give_input(name, one.low + (one.high - one.low) * (value * self.person.turned[name] + 1) / 2)

    def _hint(self, driven: Drive) -> None:
        """Say once that nothing has come of the person: keys go to the window that has the focus, silently."""
        self.moved = self.moved or bool(self.given.values)
        if not self.moved and driven.lengths == [HINT]:
            self.say(
                "nothing has come from you yet: a window gets keys while it has the focus, so click into it; a page "
                "has sliders"
            )


def step_seconds(env: Env) -> float:
    """Return the seconds of a step: what the simulation says, else its frames in a second, else 0.05."""
    said = env.get_wrapper_attr("step_seconds") if env.has_wrapper_attr("step_seconds") else None
    if said is None and (rate := env.metadata.get("render_fps")):
        said = 1.0 / rate
    return float(said or STEP)


def _episodes_in(record: str | Path) -> int:
    """Return the number of episodes of a recording that is continued."""
    try:
        return int(SampleDataset(record).index("episode").max()) + 1
    except DatasetError:  # there is none yet
        return 0


def _axes(env: Env, count: int) -> dict[str, tuple[str, str]]:
    """Return the names of an action's numbers, with the keys of the lowest and the highest value of each."""
    if env.has_wrapper_attr("action_axes"):
        found = dict(env.get_wrapper_attr("action_axes"))
        if len(found) == count:
            return found
    if count > len(AXES):
        raise ConfigError(f"a person has keys for {len(AXES)} numbers of an action, not for {count}")
    return {f"action {row}" if count > 1 else "action": AXES[row] for row in range(count)}


def _check_display() -> None:
    if problem := display_problem():
        raise ConfigError(
            f"{problem}, so that no window can open and no key arrive, as over SSH or where only Wayland is. --view "
            "web gives a page with sliders, through a forwarded port as well; on Wayland, XWayland helps"
        )


def _help(person: PersonActs, view: str, pad: Gamepad | None) -> str:
    if pad is not None:
        return f"sticks: {', '.join(person.axes)}; q in the window ends it"
    if view == "web":
        return f"sliders: {', '.join(person.axes)}; Ctrl-C ends it"
    keys = "    ".join(f"{low}, {high}: {name}" for name, (low, high) in person.axes.items())
    return f"{keys}    space: pause    q: end"
