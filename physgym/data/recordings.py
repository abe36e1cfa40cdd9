"""Form of a recording: a dataset of steps whose observations are stored once.

A row holds an observation, the action that was chosen there, and what followed: reward, flags, chosen infos. The next
observation is that of the next row. An episode ends with a row that holds its last observation alone; its flag
``acted`` is False, and its action and reward are none. `physgym.rl.transition_log` writes it.
"""

from __future__ import annotations

from physgym.sample import SampleSpec

OBSERVATION, ACTION, REWARD, INFO = "observation", "action", "reward", "info"
ACTED = "acted"
FLAGS = ("terminated", "truncated")


def is_recording(spec: SampleSpec) -> bool:
    """Return whether fields are those of a recording.

    Args:
        spec: The fields of a dataset.
    """
    if ACTED not in spec or REWARD not in spec or spec[REWARD].mask != ACTED:
        return False
    observed = [field for name, field in spec.items() if name.split("/")[0] == OBSERVATION]
    return bool(observed) and all(field.feeds == field.name for field in observed)
