"""`Feeding`: which input field of a network reaches which argument of its `forward`."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from physgym.errors import ConfigError
from physgym.nn.wrapped import unwrapped

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@runtime_checkable
class Listing(Protocol):
    """A network that takes its fields one after the other, and may know which ones it was made for.

    Attributes:
        input_fields: Names of the fields in the order of its arguments; None where it was made without names.
    """

    input_fields: tuple[str, ...] | None


@dataclass(frozen=True)
class Feeding:
    """A map of the fields of samples to the arguments of a network.

    Attributes:
        by: "name" where parameters of `forward` are names of fields, else "order".
        positional: The fields that are passed by position, in this order.
        keywords: The fields that are passed by keyword: parameter to field.
    """

    by: str
    positional: tuple[str, ...]
    keywords: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, network: nn.Module, fields: Sequence[str], others: Collection[str] = ()) -> Feeding:
        """Find how fields are fed to a network: by name where the parameters of its `forward` are field names.

        A parameter stands for a field of its name; of a nested field such as ``state/velocity`` also ``state_velocity``
        and, unless two fields end alike, ``velocity``.

        Args:
            network: The network; wrappers around it are looked through.
            fields: What feeds it.
            others: Names of fields that do not feed it.

        Raises:
            ConfigError: Some of the parameters are names of fields, but not all; or they are names of other fields.
        """
        inner = unwrapped(network)
        name = f"the network {type(inner).__name__}"
        if isinstance(inner, Listing) and set(listed := inner.input_fields or ()) == set(fields):
            return cls("order", tuple(listed))
        parameters, passing = _signature(inner)
        known = field_aliases(fields)
        matched = {p.name: known[p.name] for p in parameters if p.name in known and p.kind not in _VARIABLE}
        needed = [p.name for p in parameters if _required(p) and p.name not in matched]
        unmatched = tuple(one for one in fields if one not in matched.values())
        if passing == "some":  # what it does with them before is not known: only a full match counts
            whole = bool(matched) and not needed and not unmatched
            if whole:
                return _by_name(parameters, matched, ())
            by_name_only = all(p.kind is inspect.Parameter.VAR_KEYWORD for p in _parameters(inner))
            return cls("name", (), {one: one for one in fields}) if by_name_only else cls("order", tuple(fields))
        kinds = {p.kind for p in parameters}
        if not matched:
            taken = inspect.Parameter.VAR_KEYWORD in kinds and inspect.Parameter.VAR_POSITIONAL not in kinds
            if taken and not needed:
                return cls("name", (), {one: one for one in fields})
            foreign = [p.name for p in parameters if p.name in others and _required(p)]
            if foreign and len(fields) > 1:
                text = (
                    f"{name} has forward({_shown(parameters)}), where {foreign} are fields of the samples that do "
                    f"not feed it; its input fields are {list(fields)}. Set inputs={foreign}, or rename the "
                    "parameters: then the fields come in the order of `inputs`"
                )
                raise ConfigError(text)
            return cls("order", tuple(fields))
        problem = ""
        if needed:
            problem = f"{needed} are not"
        elif unmatched and not kinds & set(_VARIABLE):
            problem = f"there is none for {list(unmatched)}"
        if problem:
            text = (
                f"{name} has forward({_shown(parameters)}), where {list(matched)} are names of its input fields "
                f"{list(fields)}, but {problem}. Name all parameters after the fields, which then reach them by "
                "name, or none: then fields come in the order of `inputs`"
            )
            raise ConfigError(text)
        return _by_name(parameters, matched, unmatched)

    def onto(self, network: nn.Module) -> Feeding:
        """Return how the same fields reach a network whose parameters may have other places than they had.

        What was fed by name is still fed by name, wherever the parameter of that name stands now; what was fed in an
        order keeps it.

        Args:
            network: The network; wrappers around it are looked through.

        Raises:
            ConfigError: Fields were fed by name, and the parameters do not have these names.
        """
        if self.by == "order":
            return self
        inner = unwrapped(network)
        parameters, _ = _signature(inner)
        try:
            found = Feeding.of(network, self.fields)
        except ConfigError:
            found = None  # some of the names are there
        needed = [p for p in parameters if _required(p)] or parameters
        alone = len(self.fields) == len(needed) == 1  # which cannot be taken for another one
        if found is None or (found.by == "order" and not alone and not isinstance(inner, Listing)):
            name = f"the network {type(inner).__name__}"
            raise ConfigError(
                f"its fields {list(self.fields)} were fed by name, and {name} has forward({_shown(parameters)}) here, "
                "which has not all of these names: what each parameter stands for is not known. Name them after the "
                "fields again, in any order, or take (self, **fields)"
            )
        return found

    def __call__(self, network: nn.Module, fed: Mapping[str, Tensor], **more: Any) -> Any:
        """Call a network with fields.

        Args:
            network: The network.
            fed: The fields by name.
            **more: Arguments that are no fields.

        Raises:
            ConfigError: A field is missing.
        """
        try:
            positional = [fed[name] for name in self.positional]
            keywords = {parameter: fed[name] for parameter, name in self.keywords.items()}
        except KeyError:
            missing = [name for name in (*self.positional, *self.keywords.values()) if name not in fed]
            shown = f"the network {type(unwrapped(network)).__name__}"
            raise ConfigError(
                f"the transform before_prediction left out {missing}, which feed {shown}; it gives {list(fed)}"
            ) from None
        return network(*positional, **keywords, **more)

    @property
    def fields(self) -> tuple[str, ...]:
        """Return the names of the fields that are fed."""
        return (*self.positional, *self.keywords.values())

    def __str__(self) -> str:
        return f"fed by {self.by}: {', '.join(self.fields)}"

    def to_json(self) -> dict[str, Any]:
        """Return the feeding as plain JSON data; `from_json` is the inverse."""
        return {"by": self.by, "positional": list(self.positional), "keywords": dict(self.keywords)}

    @classmethod
    def from_json(cls, data: Any) -> Feeding:
        """Return the feeding that `to_json` described.

        Raises:
            ConfigError: It is no such description.
        """
        match data:
            case {"by": "name" | "order" as by, "positional": list(positional), "keywords": dict(keywords)} if all(
                isinstance(text, str) for text in (*positional, *keywords, *keywords.values())
            ):
                return cls(by, tuple(positional), dict(keywords))
        raise ConfigError(f"how fields are fed is no record of that: {str(data)[:100]}")


_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def _by_name(
    parameters: Sequence[inspect.Parameter], matched: Mapping[str, str], unmatched: tuple[str, ...]
) -> Feeding:
    """Feed by position as far as there is no gap, so that hooks and replicas see plain arguments; then by keyword."""
    positional: list[str] = []
    keywords: dict[str, str] = {}
    gap = False
    for parameter in parameters:
        if parameter.name in matched and parameter.kind not in _VARIABLE:
            if parameter.kind in POSITIONAL and not gap:
                positional.append(matched[parameter.name])
            else:
                keywords[parameter.name] = matched[parameter.name]
        elif parameter.kind is inspect.Parameter.VAR_POSITIONAL and not gap:
            positional += unmatched
            unmatched = ()
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            keywords |= {name: name for name in unmatched}
        else:
            gap = True
    return Feeding("name", tuple(positional), keywords)


def _signature(module: nn.Module) -> tuple[list[inspect.Parameter], Literal["none", "some", "all"]]:
    """Return the parameters of `forward` (of a wrapped module where it passes on all), and how much it passes on."""
    parameters = _parameters(module)
    kinds = {p.kind for p in parameters}
    inner = list(module.children())
    if kinds and kinds <= set(_VARIABLE) and len(inner) == 1:
        found, _ = _signature(unwrapped(inner[0]))
        if found and not {p.kind for p in found} <= set(_VARIABLE):
            return found, "all" if kinds == set(_VARIABLE) else "some"
    return parameters, "none"


def _parameters(module: nn.Module) -> list[inspect.Parameter]:
    if (schema := getattr(module.forward, "schema", None)) is not None:
        return _scripted(schema.arguments[isinstance(module.forward, torch.ScriptMethod) :])
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _scripted(arguments: Sequence[Any]) -> list[inspect.Parameter]:
    """Return the parameters of a function of TorchScript, but for the module itself, under any name there."""
    kinds, empty = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY), inspect.Parameter.empty
    counts = Counter(a.name for a in arguments)
    if any(count > 1 for count in counts.values()):  # `trace` names what came in `*fields` after variables inside
        return [inspect.Parameter(f"argument_{at}", inspect.Parameter.POSITIONAL_ONLY) for at in range(len(arguments))]
    return [
        inspect.Parameter(a.name, kinds[a.kwarg_only], default=a.default_value if a.has_default_value() else empty)
        for a in arguments
    ]


def _required(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty and parameter.kind not in _VARIABLE


def _shown(parameters: Sequence[inspect.Parameter]) -> str:
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    return ", ".join(f"{stars.get(p.kind, '')}{p.name}" for p in parameters)


def field_aliases(fields: Sequence[str]) -> dict[str, str]:
    """Return the names by which a parameter, or an output of a network, may stand for a field."""
    found = {name: name for name in fields}
    for short in (lambda name: re.sub(r"\W", "_", name), lambda name: name.rpartition("/")[2]):
        aliases = {name: short(name) for name in fields}
        counts = Counter(aliases.values())
        found = {alias: name for name, alias in aliases.items() if counts[alias] == 1} | found
    return found
