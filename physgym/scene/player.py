"""`Player`: which of the stored samples is shown, and how that moves on with the clock of a person."""

from __future__ import annotations

import numpy as np

from physgym.checks import positive
from physgym.scene.timeline import Timeline

RATE = 10.0  # samples a second at the usual speed
FASTER = 2.0
SLOWEST, FASTEST = 2.0**-10, 2.0**10  # times the usual speed


class Player:
    """Position in stored samples that plays, pauses and jumps; nothing is drawn here.

    At the end of the samples it stops; where it repeats, it begins again at the end of the episode.

    Args:
        timeline: The samples.
        speed: Time of the samples that passes in a second: in s, or in steps where their time is not known. By default
            so much that 10 samples are shown a second.

    Attributes:
        timeline: The samples.
        playing: Whether it moves on.
        backwards: Whether it plays backwards.
        repeat: Whether it plays one episode again and again.

    Raises:
        ConfigError: The speed is not positive.
    """

    def __init__(self, timeline: Timeline, *, speed: float | None = None) -> None:
        self.timeline = timeline
        self._usual = RATE * timeline.typical
        self._speed = self._usual if speed is None else positive("speed", speed)
        self.playing = self.backwards = self.repeat = False
        self._clock, self._position = 0.0, 0

    @property
    def position(self) -> int:
        """Return the position of the sample that is shown."""
        return self._position

    @property
    def clock(self) -> float:
        """Return the time that has passed, of `Timeline.clock`."""
        return self._clock

    @property
    def speed(self) -> float:
        """Return the time of the samples that passes in a second."""
        return self._speed

    @property
    def at_end(self) -> bool:
        """Return whether it can play no further."""
        return self._position == (0 if self.backwards else len(self.timeline) - 1)

    def seek(self, position: int) -> None:
        """Show a position, or the nearest one that there is."""
        self._position = min(max(position, 0), len(self.timeline) - 1)
        self._clock = float(self.timeline.clock[self._position + self.backwards])  # its whole time is to come

    def play(self, *, backwards: bool = False) -> None:
        """Move on from here; from the other end where this one is reached."""
        turned = backwards != self.backwards
        self.playing, self.backwards = True, backwards
        if self.at_end and not self.repeat:
            self.seek(len(self.timeline) - 1 if backwards else 0)
        elif turned:
            self.seek(self._position)

    def pause(self) -> None:
        """Stay here."""
        self.playing = False

    def step(self, count: int) -> None:
        """Pause, so many samples further; back where negative."""
        self.pause()
        self.seek(self._position + count)

    def skip(self, count: int) -> None:
        """Show the first sample of an episode so many further, the last one at most.

        -1 is the first sample of this episode where another one is shown.
        """
        begins, number = self.timeline.begins, self.timeline.number(self._position)
        if count < 0 and self._position > begins[number]:
            count += 1
        self.seek(int(begins[min(max(number + count, 0), len(begins) - 2)]))

    def jump(self, episode: int, step: int | None = None) -> None:
        """Show a step of an episode, by default its first one.

        Raises:
            ConfigError: There is none.
        """
        self.seek(self.timeline.find(episode, step))

    def next_rejected(self) -> bool:
        """Pause at the next rejected sample, after the last one at the first one; return whether there is any."""
        there = self.timeline.rejected.nonzero()[0].tolist()
        if there:
            self.pause()
            self.seek(next((position for position in there if position > self._position), there[0]))
        return bool(there)

    def faster(self, times: float = FASTER) -> None:
        """Multiply the speed; a factor below 1 is slower."""
        self._speed = min(max(self._speed * times, SLOWEST * self._usual), FASTEST * self._usual)

    def advance(self, seconds: float) -> bool:
        """Let time pass; return whether another sample is shown."""
        if not self.playing:
            return False
        before, clock = self._position, self.timeline.clock
        first, last = 0, len(self.timeline)
        if self.repeat:
            number = self.timeline.number(before)
            first, last = self.timeline.begins[number : number + 2].tolist()
        low, high = float(clock[first]), float(clock[last])
        self._clock += (-seconds if self.backwards else seconds) * self._speed
        ended = self._clock <= low if self.backwards else self._clock >= high
        if ended and not self.repeat:
            self.playing = False
            self.seek(first if self.backwards else last - 1)
            return self._position != before
        if ended:
            length = high - low
            past = (low - self._clock if self.backwards else self._clock - high) % length
            self._clock = high - past if self.backwards else low + past
        found = int(np.searchsorted(clock, self._clock, side="left" if self.backwards else "right")) - 1
        self._position = min(max(found, first), last - 1)
        return self._position != before

    @property
    def text(self) -> str:
        """Return what is shown, and how, in a line."""
        state = ("back" if self.backwards else "play") if self.playing else "pause"
        rate = f"{self._speed:.3g} {self.timeline.unit} a second"
        return f"{state}, {rate}{', repeat' if self.repeat else ''}"


def title_of(timeline: Timeline, position: int) -> str:
    """Return the name of a sample: its episode and step, and its time where it is known."""
    text = f"episode {timeline.episode[position]}, step {timeline.step[position]}"
    if timeline.joined:
        text = f"folder {timeline.folder[position]}, {text}"
    if timeline.rejected[position]:
        return f"{text}, rejected"
    return text if timeline.unit == "steps" else f"{text}, {timeline.time[position]:.4g} s"


def shown_at(timeline: Timeline, speed: float, fps: float) -> list[int]:
    """Return the position that each frame of a film shows, the first frame at the time 0.

    Args:
        timeline: The samples.
        speed: Time of the samples that passes in a second of the film.
        fps: Frames of the film in a second.
    """
    count = max(1, round(float(timeline.clock[-1]) / speed * fps))
    return [timeline.at((frame + 0.5) * speed / fps) for frame in range(count)]
