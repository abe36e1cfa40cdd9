"""Problems that evolve step by step: Navier-Stokes of the paper on the FNO, PDEBench and APEBench in one dimension."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from physgym.nn import FNO, MLP, UNet
from yardsticks.baselines import last_stays, linear_map, no_change
from yardsticks.case import Budget, Case, Network, Samples, Training
from yardsticks.equations import Advection, DiffusionReaction, DrawnBurgers, ThinnedFlow, ThinnedWaves
from yardsticks.maps import TINY_MLP, TINY_UNET, baselines
from yardsticks.measures import rollouts

STATES = ("state", "next_state")


def case(
    name: str,
    samples: Samples,
    training: Training,
    networks: Mapping[str, Network],
    *,
    first: int,
    steps: int,
    given: int = 1,
) -> Case:
    """Return a case of states that evolve, of which trajectories from the state number `first` are measured.

    Networks are given so many states. A linear map of several of them has too many weights to be fitted.
    """
    alone = baselines(*STATES, no_change=no_change, linear_map=linear_map)
    return Case(
        name=name,
        samples=samples,
        training=training,
        networks=networks,
        baselines=alone if given == 1 else baselines(*STATES, no_change=last_stays),
        measure=partial(rollouts, first, steps, given=given),
        given=given,
    )


def tiny_networks(modes: int = 4) -> dict[str, Network]:
    """Return networks to see that all works."""
    return {
        "FNO": Network(partial(FNO.from_spec, modes=modes, width=4), 1e-3),
        "UNet": Network(TINY_UNET, 1e-3),
        "MLP": Network(TINY_MLP, 1e-3),
    }


def navier_stokes(budget: Budget) -> list[Case]:
    """The flow of viscosity 0.001 from time 10 to time 50, by steps of a unit of time (section 5.3).

    From one state, whose change is predicted, or from ten of them, as in the paper.
    """
    train, test, epochs, every = {"quick": (2, 1, 1, 2), "small": (50, 20, 10, 2), "full": (1000, 200, 100, 1)}[budget]
    size, length = (16, 6) if budget == "quick" else (64, 50)
    unet = partial(UNet.from_spec, norm="none", activation="gelu", boundary="circular")
    networks = {
        "FNO": Network(partial(FNO.from_spec, modes=12, width=20), 3e-3),
        "UNet": Network(
            partial(unet, depth=3 if every == 2 else 4, width=(16, 24, 32, 48, 64)[: 4 if every == 2 else 5]), 1e-3
        ),
        "MLP": Network(partial(MLP.from_spec, hidden=(512,) * 3), 1e-3),
    }
    first, steps = (2, 4) if budget == "quick" else (10, 40)
    points = f"{size // every} points a side"
    return [
        case(
            name,
            Samples(ThinnedFlow, train * length, test * length, {"size": size, "every": every}, length),
            Training(epochs, 20, change=given == 1),
            tiny_networks() if budget == "quick" else networks,
            first=first,
            steps=steps,
            given=given,
        )
        for name, given in ((points, 1), (f"{first} states, {points}", first))
    ]


def pdebench(budget: Budget) -> list[Case]:
    """Advection, Burgers' equation and diffusion-reaction in one dimension, at its 256 points and time steps."""
    train, test, epochs = {"quick": (2, 1, 1), "small": (60, 50, 10), "full": (9000, 1000, 500)}[budget]
    size = 32 if budget == "quick" else 256
    networks = {
        "FNO": Network(partial(FNO.from_spec, modes=12, width=20), 3e-3),
        "UNet": Network(
            partial(
                UNet.from_spec,
                depth=5,
                width=(16, 24, 32, 48, 64, 64),
                norm="none",
                activation="gelu",
                boundary="circular",
            ),
            1e-3,
        ),
        "MLP": Network(partial(MLP.from_spec, hidden=(256,) * 3), 1e-3),
    }
    problems: list[tuple[str, Any, dict[str, Any], int, int]] = [
        ("advection, beta 0.1", Advection, {"size": size, "beta": 0.1}, 10, 40),
        (
            "Burgers, nu 0.001",
            DrawnBurgers,
            {"size": 16 * size, "every": 16, "viscosity": 0.001 / np.pi},
            10,
            40,
        ),
        ("diffusion-reaction, nu 0.5, rho 1", DiffusionReaction, {"size": size, "nu": 0.5, "rho": 1.0}, 5, 29),
    ]
    if budget == "quick":  # what so few points resolve
        problems[1][2].update(viscosity=0.02)
    return [
        case(
            name,
            Samples(env, train * last, test * last, arguments, last),
            Training(epochs, 50, change=True),
            tiny_networks() if budget == "quick" else networks,
            first=first,
            steps=last - first,
        )
        for name, env, arguments, first, last in problems
    ]


def apebench(budget: Budget) -> list[Case]:
    """Advection, Burgers' equation and Kuramoto-Sivashinsky in the difficulty mode of APEBench, 100 steps long.

    Its coefficients at 160 points on a circle of length 1 and a time step of 1 are here in the units of our equations.
    """
    train, test, epochs = {"quick": (2, 1, 1), "small": (50, 30, 8), "full": (50, 30, 80)}[budget]
    size, length, steps = (32, 6, 8) if budget == "quick" else (160, 50, 100)
    networks = {
        "FNO": Network(partial(FNO.from_spec, modes=12, width=18), 1e-3),
        "UNet": Network(
            partial(UNet.from_spec, depth=2, width=12, norm="group", activation="relu", boundary="circular"), 1e-3
        ),
        "MLP": Network(partial(MLP.from_spec, hidden=(256,) * 3, residual=True), 1e-3),
    }
    # the network of its documentation, which has figures of it for advection
    narrow = {"FNO, width 8": Network(partial(FNO.from_spec, modes=12, width=8, coordinates=False), 1e-3)}
    problems: list[tuple[str, Any, dict[str, Any]]] = [
        # four of the 160 points a step
        ("advection", Advection, {"size": size, "beta": 0.025, "time_step": 1.0, "waves": 0}),
        # diffusion 1.5 / (2 * 160^2), convection 1.5 / 160 with its factor 1/2 inside: time in units of 160 / 1.5
        (
            "Burgers",
            DrawnBurgers,
            {"size": 4 * size, "every": 4, "viscosity": 0.003125, "time_step": 0.009375, "waves": 0},
        ),
        # -2 / (2 * 160^2) of u_xx, -18 / (8 * 160^4) of u_xxxx: a circle of 106.67 and a time step of 4/9
        (
            "Kuramoto-Sivashinsky",
            ThinnedWaves,
            {"size": size, "length": 320 / 3, "time_step": 4 / 9, "warm_up": 2000 / 9},
        ),
    ]
    if budget == "quick":  # what so few points resolve
        problems[1][2].update(viscosity=0.02)
        problems[2][2].update(length=20.0, warm_up=20.0)
    return [
        case(
            name,
            Samples(env, train * length, test * steps, arguments, length, steps),
            Training(epochs, 20, loss="squared"),
            tiny_networks() if budget == "quick" else {**networks, **(narrow if env is Advection else {})},
            first=0,
            steps=steps,
        )
        for name, env, arguments in problems
    ]
