"""Problems whose answer comes at once: Burgers' equation and Darcy flow of the paper on the FNO, and the beam."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from physgym.nn import FNO, MLP, UNet
from yardsticks.baselines import linear_map, mean_of_input, nothing, training_mean
from yardsticks.case import Budget, Case, Network, Predict, Samples, Shown, Training
from yardsticks.equations import ThinnedDarcy
from yardsticks.measures import answers

# without a normalization, which would take the scale away; twice the rate of 0.001 then ends some trainings at once.
# The coarsest of its grids has four points, so that each point sees the whole circle
CIRCLE_UNET = partial(
    UNet.from_spec, depth=6, width=(32, 32, 48, 64, 64, 96, 96), boundary="circular", norm="none", activation="gelu"
)
SQUARE_UNET = partial(UNet.from_spec, depth=4, width=(16, 24, 32, 48, 64), norm="none", activation="gelu")
WIDE_MLP = partial(MLP.from_spec, hidden=(512,) * 3, residual=True)
TINY_UNET, TINY_MLP = partial(UNet.from_spec, depth=1, width=4), partial(MLP.from_spec, hidden=(8,))

Baseline = Callable[[Shown], Predict]


def baselines(input_: str, target: str, **functions: Callable[[str, str, Shown], Predict]) -> dict[str, Baseline]:
    """Return baselines between two fields; their names have blanks for underscores."""
    return {name.replace("_", " "): partial(function, input_, target) for name, function in functions.items()}


def burgers(budget: Budget) -> list[Case]:
    """Burgers' equation, from the initial field to that after a unit of time (section 5.1)."""
    train, test, epochs, size = {
        "quick": (40, 10, 1, 32),
        "small": (1000, 200, 30, 256),
        "full": (1000, 200, 500, 256),
    }[budget]
    quick = budget == "quick"
    fno = (
        partial(FNO.from_spec, modes=4, width=8)
        if quick
        else partial(FNO.from_spec, modes=16, width=64, coordinates=False)
    )
    networks = {
        "FNO": Network(fno, 3e-3),
        "UNet": Network(TINY_UNET if quick else CIRCLE_UNET, 1e-3),
        "MLP": Network(TINY_MLP if quick else WIDE_MLP, 1e-3),
    }
    return [
        Case(
            name=f"viscosity {viscosity:g}",
            samples=Samples("physgym/Burgers-v0", train, test, {"size": size, "viscosity": viscosity}),
            training=Training(epochs, 20),
            networks=networks,
            baselines=baselines("initial", "final", mean_of_the_initial_field=mean_of_input, linear_map=linear_map),
            measure=partial(answers, "final"),
        )
        for viscosity in (0.1, 0.01)
    ]


def darcy(budget: Budget) -> list[Case]:
    """Darcy flow, from the permeability to the pressure, solved with 421 points a side (section 5.2)."""
    train, test, epochs, solved, every = {
        "quick": (20, 6, 1, 25, 2),
        "small": (1000, 200, 10, 421, 10),
        "full": (1000, 200, 500, 421, 5),
    }[budget]
    points, quick = (solved - 1) // every + 1, budget == "quick"
    # a strip that makes the grid a size of quick Fourier transforms: 43 + 5 and 85 + 11
    padding = {"quick": 0.2, "small": 0.1, "full": 0.12}[budget]
    fno = partial(FNO.from_spec, modes=4, width=4) if quick else partial(FNO.from_spec, modes=12, width=32)
    return [
        Case(
            name=f"{points} points a side",
            samples=Samples(ThinnedDarcy, train, test, {"size": solved, "every": every}),
            training=Training(epochs, 20),
            networks={
                "FNO": Network(partial(fno, padding=padding), 2e-3),
                "UNet": Network(TINY_UNET if quick else SQUARE_UNET, 1e-3),
                "MLP": Network(TINY_MLP if quick else WIDE_MLP, 1e-3),
            },
            baselines=baselines("permeability", "pressure", mean_of_the_training=training_mean, linear_map=linear_map),
            measure=partial(answers, "pressure"),
        )
    ]


def beam(budget: Budget) -> list[Case]:
    """The cantilever on DeepPhysX' mesh of 25 x 5 x 5 nodes, from nodal forces to displacements."""
    env_id, nodes = ("physgym/Beam-v0", (13, 4, 4)) if budget == "quick" else ("physgym/BeamFull-v0", (25, 5, 5))
    train, test, epochs = {"quick": (40, 10, 1), "small": (4000, 500, 30), "full": (20_000, 500, 60)}[budget]
    unet = partial(UNet.from_spec, nodes=nodes, norm="none", boundary="replicate")
    networks = {
        "MLP": Network(TINY_MLP if budget == "quick" else WIDE_MLP, 1e-3),
        "UNet": Network(
            partial(unet, depth=1, width=4) if budget == "quick" else partial(unet, depth=2, width=24), 1e-3
        ),
    }
    # DeepPhysX' own: layers as wide as the input, PReLU, squared error of normalized fields, Adam at one rate
    values = 3 * nodes[0] * nodes[1] * nodes[2]
    theirs = partial(MLP.from_spec, hidden=(8,) if budget == "quick" else (values,) * 3, activation="prelu")
    samples = Samples(env_id, train, test)
    found = baselines("forces", "displacement", rest=nothing, linear_map=linear_map)
    measure = partial(answers, "displacement")
    return [
        Case("ours", samples, Training(epochs, 64), networks, found, measure),
        Case(
            "DeepPhysX' network",
            samples,
            Training(epochs, 64, loss="squared", constant_rate=True),
            {"FC": Network(theirs, 1e-5), "FC, lr 0.0003": Network(theirs, 3e-4)},
            {},
            measure,
        ),
    ]
