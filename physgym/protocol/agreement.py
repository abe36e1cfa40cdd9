"""The agreement of both ends of a connection, as a worker described it: number of environments and layouts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from gymnasium import spaces

from physgym import spaces as walk
from physgym.errors import ProtocolError
from physgym.protocol.buffers import Layout, results_layout
from physgym.protocol.messages import Ready
from physgym.protocol.msgpack_values import MAX_DESCRIBED, check_size, decode_space, space_size
from physgym.sample import FieldRole, SampleSpec
from physgym.spaces import Leaf

_DESCRIBED = frozenset(
    {
        "observation_space", "observation_spaces", "action_space", "sample_space", "sample_fields", "parameter_space",
        "parameter_fields", "metadata", "render_mode", "max_episode_steps",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """The number of environments and the layouts, which both ends know after `Ready`."""

    count: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    sample_spec: SampleSpec | None
    parameter_spec: SampleSpec | None
    parameter_space: spaces.Space[Any] | None
    actions: Layout
    results: Layout
    samples: Layout
    parameters: Layout
    action_leaves: list[Leaf]
    variable_observations: int

    @classmethod
    def from_ready(cls, ready: Ready) -> Agreement:
        """Return the layouts that follow from a worker's description."""
        observation = walk.from_json(ready.description["observation_space"])
        action = walk.from_json(ready.description["action_space"])
        fields, parameter_fields = (ready.description[f"{what}_fields"] for what in ("sample", "parameter"))
        spec = None if fields is None else SampleSpec.from_json(fields)
        parameters = None if parameter_fields is None else SampleSpec.from_json(parameter_fields)
        parameter_space = ready.description["parameter_space"]
        observed, applied = walk.leaves(observation), walk.leaves(action)
        return cls(
            ready.count,
            observation,
            action,
            spec,
            parameters,
            None if parameter_space is None else walk.from_json(parameter_space),
            Layout(applied),
            results_layout(Layout(observed)),
            Layout(_leaves(spec)),
            Layout(_leaves(parameters)),
            applied,
            sum(leaf.variable for leaf in observed),
        )


def _leaves(spec: SampleSpec | None) -> list[Leaf]:
    return [] if spec is None else [Leaf(field.name, field.shape, field.dtype) for field in spec.values()]


def _described_size(described: dict[str, Any]) -> int:
    """Return the bytes of one value of each space in a description, before any of the spaces is made.

    Raises:
        ValueError: One is too large, or not described as it must be.
    """
    spaces_ = [described[f"{name}_space"] for name in ("observation", "action", "sample", "parameter")]
    return sum(space_size(data) for data in (*spaces_, *described["observation_spaces"]) if data is not None)


def agree(ready: Ready) -> Agreement:
    """Return the agreement from a description that came over the wire: any fault in it is the peer's.

    Raises:
        ProtocolError: The description is wrong.
    """
    if ready.count < 1:
        raise ProtocolError(f"a worker announces {ready.count} environments")
    try:
        described = ready.description
        if set(described) - {"code"} != _DESCRIBED:
            raise ValueError(f"its keys must be {sorted(_DESCRIBED)}, and maybe code")
        for names in (described.get("code") or {}).values():
            if not all(isinstance(name, str) for name in names):
                raise ValueError("code must be lists of texts")
        if not isinstance(described["metadata"], dict) or len(described["observation_spaces"]) not in (0, ready.count):
            raise ValueError("metadata or observation_spaces are wrong")
        total = _described_size(described)
        for fields in (described["sample_fields"] or [], described["parameter_fields"] or []):
            total += check_size(((field["shape"], field["dtype"]) for field in fields), texts=True)
            if not all(field["role"] in get_args(FieldRole) and isinstance(field["unit"], str) for field in fields):
                raise ValueError("a field has another role, or a unit that is no text")
        if total > MAX_DESCRIBED:
            raise ValueError(f"values of {total} bytes exceed the limit of {MAX_DESCRIBED} for all spaces together")
        for name in ("sample", "parameter"):
            space, fields = described[f"{name}_space"], described[f"{name}_fields"]
            if (space is None) != (fields is None):
                raise ValueError(f"there is either {name}_space or {name}_fields without the other")
            if space is not None:
                pairs = (walk.stored_leaves(decode_space(space)), _leaves(SampleSpec.from_json(fields)))
                # a worker that describes spaces in the machine's byte order may have fields of the other one
                first, second = ([(x.path, x.shape, x.dtype.newbyteorder("=")) for x in leaves] for leaves in pairs)
                if first != second:
                    raise ValueError(f"{name}_fields are not those of {name}_space")
        seen, *others = (
            walk.leaves(decode_space(data))
            for data in (described["observation_space"], *described["observation_spaces"])
        )
        if any(other != seen for other in others):
            raise ValueError("its environments have different observations")
        decode_space(described["action_space"])
        return Agreement.from_ready(ready)
    except Exception as error:
        # numpy and Gymnasium refuse spaces in many ways
        raise ProtocolError(f"a worker describes its environments wrongly: {error!r}") from error
