"""Pictures of heated plates, which several examples have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from docs.pictures import drawing
from docs.pictures.work import rolled_out


def plate(session: Path, env: str, horizon: int = 20, **env_kwargs: Any) -> Figure:
    """Return a picture of a plate after some steps, by the solver and by the network alone."""
    report = rolled_out(env, session, horizon, env_kwargs=env_kwargs)
    one = report.examples[0]
    figure, panels = drawing.new(3, 8.4, 2.5)
    true, predicted = (np.squeeze(values["next_temperature"][-1]) for values in (one.true, one.predicted))
    limits = {"vmin": float(true.min()), "vmax": float(true.max()), "cmap": "inferno"}
    drawing.image(panels[0], true, f"solver after {float(one.seconds[-1]):g} s", "K", **limits)
    drawing.image(panels[1], predicted, f"network, {horizon} own steps", "K", **limits)
    drawing.horizons(panels[2], report, "next_temperature", "10 unseen episodes")
    return figure
