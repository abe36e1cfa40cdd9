"""The table of sampler names: what configurations, the command line and `find_sampler` know.

It holds classes by name, so that reading the names imports no sampler. A sampler is added with one row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Drawn: TypeAlias = Literal["parameters", "actions"]


@dataclass(frozen=True)
class NamedSampler:
    """A sampler that has a name.

    Attributes:
        name: Its name.
        kind: Its class, as module:class in `physgym.samplers`.
        draws: What it can draw.
        argument: What may stand behind the name and a colon: STRATA and POINTS are numbers, SESSION is a path; empty
            for nothing.
        required: Whether the argument must be there. The description of such a sampler does not say what it takes to
            make it again.
    """

    name: str
    kind: str
    draws: tuple[Drawn, ...] = ("parameters", "actions")
    argument: str = ""
    required: bool = False


TABLE = (
    NamedSampler("uniform", "independent:Uniform"),
    NamedSampler("gaussian", "independent:Gaussian"),
    NamedSampler("sobol", "sequences:Sobol"),
    NamedSampler("lhs", "sequences:LatinHypercube", argument="STRATA"),
    NamedSampler("grid", "sequences:Grid", argument="POINTS"),
    NamedSampler("breed", "breed:Breed", draws=("parameters",)),
    NamedSampler("network", "networks:NetworkPolicy", draws=("actions",), argument="SESSION", required=True),
)


def named_samplers(what: str) -> dict[str, NamedSampler]:
    """Return the samplers of "actions" or of "parameters", by name."""
    return {row.name: row for row in TABLE if what in row.draws}


def sampler_names(what: str) -> tuple[str, ...]:
    """Return the names of the samplers of "actions" or of "parameters"."""
    return tuple(named_samplers(what))


def shown_names(what: str) -> list[str]:
    """Return the names of samplers as a user writes them, with their arguments, such as "lhs[:STRATA]"."""
    rows = named_samplers(what).values()
    return [
        row.name + (f":{row.argument}" if row.required else f"[:{row.argument}]" if row.argument else "")
        for row in rows
    ]
