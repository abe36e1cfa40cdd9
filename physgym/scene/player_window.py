"""`PlayerWindow`: a window that plays stored samples."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from physgym.data.labels import Labels
from physgym.errors import ConfigError
from physgym.scene.chosen_samples import ChosenSamples, Shown
from physgym.scene.player import Player
from physgym.scene.player_keys import HELP, LABELLING, PlayerKeys
from physgym.scene.sinks.vedo_cells import DARK
from physgym.scene.sinks.vedo_window import VedoWindow
from physgym.scene.space import Size
from physgym.spaces import Array

SIZE: Size = (1100, 760)
RATE = 30.0  # looks at the clock in a second
BELOW = 0.17  # of the height, for what controls the player
BUTTONS = {  # text, and the key that does the same
    "|<": "Home",
    "<<": "Up",
    "<": "Left",
    "play": "space",
    ">": "Right",
    ">>": "Down",
    ">|": "End",
    "slower": "minus",
    "faster": "plus",
    "repeat": "r",
}
LINE = 0.045  # height of a line of text
PLAIN = (0.9, 0.9, 0.9)


class PlayerWindow:
    """A window that plays stored samples: scenes, below them a slider, buttons and what the keys do.

    A context manager, which closes it.

    Args:
        samples: What is played.
        offscreen: Whether there is no window, but `pixels` alone.

    Attributes:
        player: What moves.

    Raises:
        ConfigError: There is no display.
    """

    def __init__(self, samples: ChosenSamples, *, offscreen: bool = False) -> None:
        self._samples, self._lanes = samples, samples.lanes()
        longest = max(self._lanes, key=lambda lane: float(lane.clock[-1]))
        self.player = Player(longest, speed=samples.speed)
        self.player.seek(samples.start if len(self._lanes) == 1 else 0)
        self._labels = _labels_of(samples) if len(self._lanes) == 1 else None
        self._keys = PlayerKeys(self.player, self._labels)
        self._titles: list[str] = [""] * len(samples.sides) * len(self._lanes)
        scenes = list(range(len(self._titles)))
        self._window = VedoWindow(
            scenes, offscreen=offscreen, size=SIZE, titles=self._titles, keys=self._keys.press, below=BELOW
        )
        self._drawn: tuple[Any, ...] = ()
        samples.prepare()
        try:
            self._window.open("physgym view", len(self._titles))
        except ConfigError as error:
            raise ConfigError(
                f"{error}, so that no window can be opened; write a film or pictures: --video out.mp4, --gif out.gif, "
                "--png out.png or --frames DIR"
            ) from error
        try:
            self._status, self._buttons, self._slider = self._new_controls()
            self.refresh()
        except BaseException:
            self._window.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._window.close()

    def run(self) -> None:
        """Play until a person closes the window."""
        before = now = time.monotonic()
        while self.turn(now - before):
            before = now
            time.sleep(max(0.0, before + 1 / RATE - time.monotonic()))
            now = time.monotonic()

    def turn(self, seconds: float) -> bool:
        """Do what a person asks, and let time pass; return False once the window was closed."""
        going = self._window.poll()
        if going:
            self.player.advance(seconds)
            self.refresh()
        return going

    def press(self, key: str) -> None:
        """Do what a key is for, such as "space" or "Left"."""
        self._window.press(key)

    def pixels(self) -> Array:
        """Return what is drawn, shape (height, width, 3), uint8."""
        return self._window.pixels()

    @property
    def positions(self) -> Shown:
        """Return which sample of each of the episodes at once is shown."""
        player = self.player
        return [(lane, player.position if lane is player.timeline else lane.at(player.clock)) for lane in self._lanes]

    def refresh(self) -> None:
        """Draw what has changed."""
        positions = self.positions
        label = self._keys.label(positions[0][1])
        now = (tuple(position for _, position in positions), self.player.text, self._keys.message, label)
        if now == self._drawn:
            return
        moved, self._drawn = self._drawn[:1] != now[:1], now
        self._write_status()
        if moved:
            self._titles[:] = self._samples.titles(positions, whole=True)
            self._window.show(dict(enumerate(self._samples.snapshots(positions))))
        else:
            self._window.plotter.window.Render()

    # --- what controls it

    def _write_status(self) -> None:
        player, (lane, position) = self.player, self.positions[0]
        number, count = player.timeline.number(player.position), len(player.timeline.begins) - 1
        where = f"sample {player.position + 1} of {len(player.timeline)}, episode {number + 1} of {count}"
        reason = self._samples.scenes.reason(lane, position)
        said = self._keys.message or (f"rejected: {reason}" if reason else self._keys.label(position))
        lines = [f"{player.text}    {where}", said]
        self._status.SetInput("\n".join(lines))
        self._buttons["play"][0].SetInput("pause" if player.playing else "play")
        self._slider.GetRepresentation().SetValue(player.position)

    def _new_controls(self) -> tuple[Any, dict[str, tuple[Any, float]], Any]:
        """Make the line of text, the buttons with the left end of each, and the slider."""
        plotter = self._window.plotter
        status = _text(plotter.renderer, 0.02, BELOW - 0.3 * LINE, 13)
        buttons, left = {}, 0.02
        for text in BUTTONS:
            button = _text(plotter.renderer, left, 2.05 * LINE, 14)
            button.GetTextProperty().SetBackgroundColor(*PLAIN)
            button.GetTextProperty().SetBackgroundOpacity(1)
            button.SetInput(f" {text} ")
            buttons[text] = (button, left)
            left += 0.03 + 0.0095 * max(len(text), 3)
        help_ = HELP if self._labels is None else f"{HELP}\n{LABELLING}"
        _text(plotter.renderer, 0.02, 1.25 * LINE, 11).SetInput(help_)
        slider = plotter.add_slider(
            self._slid,
            0,
            max(1, len(self.player.timeline) - 1),
            value=0,
            pos=[(left + 0.01, 1.8 * LINE), (0.98, 1.8 * LINE)],
            show_value=False,
        )
        if plotter.interactor is not None:
            plotter.interactor.AddObserver("LeftButtonPressEvent", self._clicked, 10.0)
        return status, buttons, slider

    def _slid(self, widget: Any, _: Any) -> None:
        self.player.pause()
        self.player.seek(round(widget.GetRepresentation().GetValue()))

    def _clicked(self, interactor: Any, _: Any) -> None:
        x, y = interactor.GetEventPosition()
        for text, (button, _left) in self._buttons.items():
            box = [0.0] * 4
            button.GetBoundingBox(self._window.plotter.renderer, box)
            place = button.GetPositionCoordinate().GetComputedViewportValue(self._window.plotter.renderer)
            if box[0] <= x - place[0] <= box[1] and box[2] <= y - place[1] <= box[3]:
                self._keys.press(BUTTONS[text])


def _labels_of(samples: ChosenSamples) -> Labels | None:
    """Return the labels of recorded steps; None for samples that have no actions, or are not in one local folder."""
    try:
        return Labels(samples.dataset)
    except ConfigError:
        return None


def show_player(samples: ChosenSamples) -> None:
    """Play stored samples in a window until it is closed.

    Raises:
        ConfigError: There is no display.
    """
    with PlayerWindow(samples) as window:
        window.run()


def _text(renderer: Any, left: float, top: float, size: int) -> Any:
    from vtkmodules.vtkRenderingCore import vtkTextActor

    found = vtkTextActor()
    found.GetPositionCoordinate().SetCoordinateSystemToNormalizedViewport()
    found.GetPositionCoordinate().SetValue(left, top)
    found.GetTextProperty().SetFontSize(size)
    found.GetTextProperty().SetColor(*DARK)
    found.GetTextProperty().SetVerticalJustificationToTop()
    renderer.AddActor(found)
    return found
