"""Types of the functions that choose the parameters and the actions of episodes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

ActionPolicy: TypeAlias = Callable[[Any, np.random.Generator], Any]  # observation and generator to an action
EpisodePolicy: TypeAlias = Callable[[int], ActionPolicy]  # index of an episode to its policy
ParameterDraw: TypeAlias = Callable[[int], Any]  # index of an episode to its parameters
