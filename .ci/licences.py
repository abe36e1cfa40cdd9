"""Write docs/reference/licences.md: the licence of each package that pyproject.toml names, and what needs it.

A new package gets a line in LICENCES, then: python .ci/licences.py
"""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "licences.md"

LICENCES = {
    "alembic": "MIT",
    "boto3": "Apache-2.0",
    "cloudpickle": "BSD-3-Clause",
    "cryptography": "Apache-2.0 OR BSD-3-Clause",
    "datasets": "Apache-2.0",
    "fmpy": "BSD-2-Clause",
    "furo": "MIT",
    "gymnasium": "MIT",
    "h5netcdf": "BSD-3-Clause",
    "h5py": "BSD-3-Clause",
    "hdf5plugin": "MIT",
    "hypothesis": "MPL-2.0",
    "imageio": "BSD-2-Clause",
    "imageio-ffmpeg": "BSD-2-Clause",
    "ipykernel": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
    "jsonschema": "MIT",
    "lmdb": "OLDAP-2.8",
    "matplotlib": "Matplotlib (PSF-based)",
    "meshio": "MIT",
    "minari": "MIT",
    "mlflow-skinny": "Apache-2.0",
    "moto": "Apache-2.0",
    "mpi4py": "BSD-3-Clause",
    "mpich": "MPICH",
    "msgpack": "Apache-2.0",
    "mujoco": "Apache-2.0",
    "mypy": "MIT",
    "myst-nb": "BSD-3-Clause",
    "myst-parser": "MIT",
    "nbclient": "BSD-3-Clause",
    "netCDF4": "MIT",
    "numpy": "BSD-3-Clause",
    "onnx": "Apache-2.0",
    "onnxruntime": "MIT",
    "onnxscript": "MIT",
    "opencv-python-headless": "Apache-2.0",
    "optuna": "MIT",
    "packaging": "Apache-2.0 OR BSD-2-Clause",
    "plotly": "MIT",
    "psutil": "BSD-3-Clause",
    "pyarrow": "Apache-2.0",
    "pydantic": "MIT",
    "pygame-ce": "LGPL-2.1",
    "pytest": "MIT",
    "pytest-rerunfailures": "MPL-2.0",
    "pytest-timeout": "MIT",
    "pytest-xdist": "MIT",
    "PyYAML": "MIT",
    "ray": "Apache-2.0",
    "rerun-sdk": "MIT OR Apache-2.0",
    "ruff": "MIT",
    "safetensors": "Apache-2.0",
    "scikit-fem": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "skrl": "MIT",
    "sphinx": "BSD-2-Clause",
    "sphinx-copybutton": "MIT",
    "sphinx-design": "MIT",
    "sphinx-gallery": "BSD-3-Clause",
    "sqlalchemy": "MIT",
    "stable-baselines3": "MIT",
    "tensorboard": "Apache-2.0",
    "tianshou": "MIT",
    "torch": "BSD-3-Clause",
    "torchrl": "MIT",
    "tqdm": "MPL-2.0 AND MIT",
    "typer": "MIT",
    "types-PyYAML": "Apache-2.0",
    "types-tqdm": "Apache-2.0",
    "umbridge": "MIT",
    "vedo": "MIT",
    "viser": "MIT",
    "wandb": "MIT",
    "xarray": "Apache-2.0",
    "zarr": "MIT",
}
# of what wheels bring along, where it is another one
BROUGHT = {
    "hdf5plugin": "its filters have licences of their own, all permissive",
    "imageio-ffmpeg": "its wheel has a program, ffmpeg, under the GPL",
    "numpy": "its wheels have OpenBLAS (BSD) and the GCC runtime (GPL with the runtime exception)",
    "opencv-python-headless": "its wheels have FFmpeg under the LGPL",
    "scipy": "its wheels have OpenBLAS (BSD) and the GCC runtime (GPL with the runtime exception)",
    "torch": "parts are under Apache-2.0, BSL-1.0 and MIT; builds with CUDA bring NVIDIA's libraries under its terms",
    "vedo": "draws with VTK, BSD-3-Clause",
}
HEAD = """# Licences

physgym is under the MIT licence. These are the packages that `pyproject.toml` names, with the licence that each states
for itself, as an SPDX expression where there is one. What these need in turn is listed by `pip show` and tools such as
pip-licenses. The page is written by `.ci/licences.py`, and a test compares it with `pyproject.toml`.

| package | licence | needed for |
|---|---|---|
"""


def uses() -> dict[str, list[str]]:
    """Return the packages that pyproject.toml names, with the extras that name them; "everything" for the others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"everything": project["dependencies"], **project["optional-dependencies"]}
    found: dict[str, list[str]] = {}
    for group, requirements in groups.items():
        for requirement in requirements:
            found.setdefault(Requirement(requirement).name, []).append(group)
    return found


def page() -> str:
    """Return the page; KeyError for a package without a licence in the list."""
    rows = []
    for name, groups in sorted(uses().items(), key=lambda item: item[0].lower()):
        places = "everything" if "everything" in groups else ", ".join(f"`{group}`" for group in groups)
        licence = LICENCES[name] + (f"; {BROUGHT[name]}" if name in BROUGHT else "")
        rows.append(f"| {name} | {licence} | {places} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page())
