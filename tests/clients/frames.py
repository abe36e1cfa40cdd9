"""The frames that a parent sends to a worker which it has welcomed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from physgym import spaces as walk
from physgym.protocol.agreement import agree
from physgym.protocol.codec import encode, nbytes, pack_header
from physgym.protocol.messages import (
    Assignment,
    Call,
    Close,
    GiveInputs,
    Message,
    Ready,
    Reset,
    Rollout,
    Step,
    WatchScenes,
)
from physgym.vector.vector_env import SocketVectorEnv

START = {
    "worker": 0,
    "first_env": 0,
    "num_envs": 2,
    "autoreset_mode": "SAME_STEP",
    "timeout": 60.0,
    "seeds": None,
    "mark": "",
}


def conversation(env_id: str, factory: Any, parameters: dict[str, Any], arguments: Sequence[dict[str, Any]]) -> bytes:
    """Return the frames of a run of two environments: resets, steps, rollouts, calls, the end."""
    with SocketVectorEnv([factory] * 2, num_workers=0) as venv:
        agreement = agree(Ready(2, dict(venv.description)))
        space = venv.action_space
        space.seed(1)
        actions = [list(map(np.asarray, walk.flatten(venv.action_space, space.sample()))) for _ in range(4)]
    one = {"make": "env", "env": env_id, "arguments": {}}
    several = {"make": "by episode", "of": [{**one, "arguments": given} for given in arguments]} if arguments else one
    options = {"parameters": parameters}
    episodes = [
        [0, 5],
        [1, 2**63 - 1, options],
        [2, 0, {}],
        [3, 7, options | ({"physgym/arguments": 1} if arguments else {})],
    ]
    requests: list[Message] = [
        Call("call", "has_wrapper_attr", ["step_seconds"]),
        Call("scene"),
        Reset(0, [1, None], [True, True], options),
        Step(0, None, actions[0]),
        WatchScenes([0], 0.5),
        Step(0, [1], [column[:1] for column in actions[1]], stream=True),
        Step(0, [1, 0], actions[2], [column.tolist() for column in actions[3]]),
        GiveInputs(0, [["push", 1.0]]),
        Rollout(episodes, 20, 5, "allow", keep_rejected=True),
        Rollout(episodes, 200, 5, "reject", limit=9, made=10),
        Rollout(episodes[:1], 200, 5, limit=30, made=10, goes_on=True, reports=True),
        Call("call", "nothing", [1, {"a": [None, b"x", 2.5]}], {"b": np.arange(3.0)}, [1]),
        Close(),
    ]
    start = {"make": "sampled actions", "of": several, "sampler": {"sampler": "uniform"}, "seed": 0}
    environments = [several if arguments else start] * 2
    frames = _frame(Assignment(START, environments), 0, agreement)
    number = 0
    for message in requests:
        number += not isinstance(message, (WatchScenes, GiveInputs))
        frames += _frame(message, number, agreement)
    return frames


def _frame(message: Message, number: int, agreement: Any) -> bytes:
    body = encode(message, agreement)
    return pack_header(type(message), number, sum(map(nbytes, body))) + b"".join(bytes(part) for part in body)
