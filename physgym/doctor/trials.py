"""Things that are tried in processes of their own, since they may hang, or end the whole process.

``python -m physgym.doctor.trials NAME`` tries one, and prints what it found as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from physgym.doctor.finding import Finding, FindingState
from physgym.system.children import capture

TIMEOUT = 120.0  # seconds for one of them; a cold disk takes long to load torch and VTK


def attempt(name: str, timeout: float = TIMEOUT) -> Finding:
    """Try something in a process of its own.

    Args:
        name: One of `TRIALS`.
        timeout: Seconds that it may take.
    """
    subject, failed = SUBJECTS[name]
    try:
        done = capture([sys.executable, "-m", __name__, name], timeout=timeout)
    except subprocess.TimeoutExpired:
        return Finding(subject, failed, f"gave no answer within {timeout:g} s", REMEDIES[name])
    except OSError as error:
        return Finding(subject, failed, f"cannot be tried: {error.strerror}", REMEDIES[name])
    lines = done.stdout.decode(errors="replace").splitlines()
    if done.returncode or not lines:
        return Finding(subject, failed, _end(done), REMEDIES[name])
    try:
        found = json.loads(lines[-1])
        return Finding(subject, found["state"], found["text"], found["remedy"], found["values"])
    except (ValueError, KeyError, TypeError):
        return Finding(subject, failed, f"gave an unexpected answer: {lines[-1][:200]}", REMEDIES[name])


def _end(done: subprocess.CompletedProcess[bytes]) -> str:
    """Return how a trial has failed, in words."""
    said = done.stderr.decode(errors="replace").strip().splitlines()
    last = f": {said[-1][:300]}" if said else ""
    if done.returncode < 0:
        return f"ends the process by {signal.Signals(-done.returncode).name}{last}"
    return f"fails{last}"


def _workers() -> tuple[FindingState, str, str, dict[str, Any]]:
    """Step two environments in two workers."""
    from physgym.vector.make import make_vec

    with make_vec("physgym/Spring-v0", num_envs=2, num_workers=2) as envs:
        envs.reset(seed=0)
        envs.step(envs.action_space.sample())
    return "ok", "two were started, stepped and ended", "", {}


def _devices() -> tuple[FindingState, str, str, dict[str, Any]]:
    """Compute on each device of torch."""
    import torch

    found = []
    for number in range(torch.cuda.device_count()):
        place = torch.device("cuda", number)
        properties = torch.cuda.get_device_properties(number)
        assert float((torch.ones(64, 64, device=place) @ torch.ones(64, 64, device=place)).sum()) == 64**3
        found.append(f"{properties.name} with {properties.total_memory / 2**30:.0f} GiB")
    values = {"devices": found, "torch": str(torch.__version__), "cuda": torch.version.cuda}
    if found:
        return "ok", f"cuda: {', '.join(found)}", "", values
    if torch.backends.mps.is_available():
        return "ok", "mps: Apple's, for training.device: mps", "", values | {"devices": ["mps"]}
    cards = sorted(name for name in os.listdir("/dev") if name.startswith("nvidia") and name[6:].isdigit())  # noqa: PTH208
    if cards and torch.version.cuda is None:
        remedy = "install a torch with CUDA: see its site for the command"
        return "note", "the processor alone: this torch is built without CUDA, the machine has a card", remedy, values
    if cards:
        remedy = "the driver may be too old for this torch: look at nvidia-smi"
        return "note", "the processor alone: torch finds no card, the machine has one", remedy, values
    return "ok", "the processor alone; the machine has no card that torch knows", "", values


def _pictures() -> tuple[FindingState, str, str, dict[str, Any]]:
    """Draw a 2-D picture."""
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1, 1), dpi=20)
    figure.add_subplot().plot([0, 1])
    FigureCanvasAgg(figure)
    figure.savefig(file := io.BytesIO(), format="png")
    assert file.getvalue().startswith(b"\x89PNG")
    return "ok", "matplotlib draws without a screen", "", {}


def _scenes() -> tuple[FindingState, str, str, dict[str, Any]]:
    """Draw a 3-D picture."""
    import numpy as np
    import vedo

    from physgym.scene.space import quiet_vtk

    with quiet_vtk():
        plotter = vedo.Plotter(offscreen=True, size=(40, 40), bg="white")
        plotter.show(vedo.Sphere(c="red"), interactive=False)
        picture = np.asarray(plotter.screenshot(asarray=True))
        window = type(plotter.window).__name__
        plotter.close()
    if picture.min() == picture.max():
        return "note", f"VTK draws, but its picture is empty ({window})", REMEDIES["scenes"], {"window": window}
    return "ok", f"VTK draws without a screen ({window})", "", {"window": window}


def _mujoco() -> tuple[FindingState, str, str, dict[str, Any]]:
    """Draw a picture of MuJoCo's."""
    import mujoco

    model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    backend = os.environ.get("MUJOCO_GL", "")
    with mujoco.Renderer(model, 40, 40) as renderer:
        renderer.update_scene(data)
        picture = renderer.render()
    values = {"MUJOCO_GL": backend, "version": mujoco.__version__}
    shown = f"MuJoCo {mujoco.__version__} draws" + (f" with MUJOCO_GL={backend}" if backend else "")
    if picture.min() == picture.max():
        return "note", f"{shown}, but its picture is empty", REMEDIES["mujoco"], values
    return "ok", shown, "", values


TRIALS: dict[str, Callable[[], tuple[FindingState, str, str, dict[str, Any]]]] = {
    "workers": _workers,
    "devices": _devices,
    "pictures": _pictures,
    "scenes": _scenes,
    "mujoco": _mujoco,
}
OPTIONAL = ("mujoco",)  # packages of the same name, tried where they are installed
# what they are called, and what it is where they fail
SUBJECTS: dict[str, tuple[str, FindingState]] = {
    "workers": ("workers", "problem"),
    "devices": ("devices", "problem"),
    "pictures": ("2-D pictures", "note"),
    "scenes": ("3-D pictures", "note"),
    "mujoco": ("MuJoCo", "note"),
}
REMEDIES = {
    "workers": "run it again with --verbose, and look whether a firewall or a sandbox forbids sockets or processes",
    "devices": "pip install --force-reinstall torch; without its cards: CUDA_VISIBLE_DEVICES= physgym ...",
    "pictures": "pip install --force-reinstall matplotlib",
    "scenes": "install the libraries of OpenGL (Debian: apt install libgl1 libegl1 libosmesa6), or use 2-D scenes",
    "mujoco": "set MUJOCO_GL=egl for a card or Mesa, MUJOCO_GL=osmesa for the processor (apt install libosmesa6)",
}


def main() -> None:
    """Try what the argument names."""
    state, text, remedy, values = TRIALS[sys.argv[1]]()
    sys.stdout.write(json.dumps({"state": state, "text": text, "remedy": remedy, "values": values}) + "\n")


if __name__ == "__main__":
    main()
