"""The origin of a run: its command and repository, the packages and the machine, and its samples."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote, urlsplit

from physgym._version import __version__
from physgym.errors import ConfigError
from physgym.experiment.repository import Repository, find_repository, make_patch
from physgym.git import git
from physgym.system.children import capture
from physgym.system.cores import usable_cores

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset

# what the bits of a result may depend on, and on which machines it was
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NUMERICS = (
    *("CUBLAS_WORKSPACE_CONFIG", "NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "MKL_CBWR"),
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "OMP_DYNAMIC", "PYTHONHASHSEED"),
)
OTHERS = 1000  # files that are no code which a record names
DRIVER = Path("/proc/driver/nvidia")
PLACES = ("WORLD_SIZE", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "SLURM_JOB_ID", "SLURM_JOB_NODELIST")


@dataclass(frozen=True)
class Origin:
    """Origin of a run.

    Attributes:
        command: The command line.
        folder: Where it was given.
        config_file: The configuration file, None where there was none.
        edits: Flags and overrides, as they were given.
        repository: Around the folder, None where there is none.
        patch: All that is not committed, None where it is not stored.
        allow_changed_code: Whether what is resumed may continue with another code of the simulation.
    """

    command: tuple[str, ...]
    folder: str
    config_file: str | None = None
    edits: Mapping[str, Any] = field(default_factory=dict)
    repository: Repository | None = None
    patch: bytes | None = None
    allow_changed_code: bool = False

    @classmethod
    def here(
        cls,
        config_file: str | Path | None = None,
        edits: Mapping[str, Any] | None = None,
        *,
        save_diff: bool = False,
        allow_changed_code: bool = False,
    ) -> Self:
        """Return the origin of a run that begins here.

        Args:
            config_file: The configuration file.
            edits: Flags and overrides, as they were given.
            save_diff: Whether to keep what is not committed.
            allow_changed_code: Whether what is resumed may continue with another code of the simulation.

        Raises:
            ConfigError: There are changes that cannot be kept.
        """
        try:
            folder = Path.cwd()
        except FileNotFoundError as error:
            raise ConfigError("the current folder was deleted; go to another one") from error
        repository = find_repository(folder)
        patch = None
        if save_diff and repository is not None and repository.dirty:
            patch = make_patch(repository)
        file = None if config_file is None else str(config_file)
        return cls(_command(), str(folder), file, dict(edits or {}), repository, patch, allow_changed_code)

    def record(self) -> dict[str, Any]:
        """Return it as JSON data without the patch, with the packages and the machine."""
        return {
            "command": list(self.command),
            "folder": self.folder,
            "config_file": self.config_file,
            "edits": dict(self.edits),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "git": _git_record(self.repository),
            "physgym": _own_record(),
            "packages": packages(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "hardware": hardware(),
            "threads": threads(),
            "environment": {name: os.environ[name] for name in (*THREADS, *NUMERICS, *PLACES) if name in os.environ},
        }


def _command() -> tuple[str, ...]:
    program, *arguments = sys.argv or [""]
    ours = Path(program).name == "physgym" or Path(program) == Path(__file__).parents[1] / "__main__.py"
    return ("physgym" if ours else program, *arguments)


def _git_record(repository: Repository | None) -> dict[str, Any] | None:
    if repository is None:
        return None
    return {
        "root": str(repository.root),
        "folder": repository.folder,
        "commit": repository.commit,
        "branch": repository.branch,
        "remote": repository.remote,
        "dirty": repository.dirty,
        "changed": list(repository.changed),
        "untracked": list(repository.untracked),
        "others": list(repository.others[:OTHERS]),
        "problem": repository.problem,
        "import_folders": import_folders(repository.root),
    }


@functools.cache
def _own_record() -> dict[str, Any]:
    """Return the version of physgym, and its commit where it is imported from a checkout."""
    package = Path(__file__).resolve().parents[1]
    commit, dirty = None, None
    try:
        if git(package, "ls-files", "--", "_version.py"):  # else it is merely installed below another repository
            commit = git(package, "rev-parse", "HEAD").decode().strip()
            dirty = bool(git(package, "status", "--porcelain", "--", "."))
    except ConfigError:
        pass
    return {"version": __version__, "commit": commit, "dirty": dirty, "folder": str(package)}


@functools.cache
def _distributions() -> tuple[dict[str, str], list[Path]]:
    """Return the versions of all packages by name, and the folders of those installed to be edited."""
    versions: dict[str, str] = {}
    edited = []
    for found in importlib.metadata.distributions():
        try:
            name, version = found.metadata["Name"], found.version
            link = json.loads(found.read_text("direct_url.json") or "{}")
        except (OSError, ValueError, KeyError, TypeError):  # a damaged installation
            continue
        if name and version:
            versions.setdefault(name, version)  # the first one is what is imported
        if isinstance(link, dict) and link.get("dir_info", {}).get("editable"):
            edited.append(Path(unquote(urlsplit(link.get("url", "")).path)))
    return dict(sorted(versions.items(), key=lambda item: item[0].lower())), edited


def packages() -> dict[str, str]:
    """Return the versions of all installed packages, by name."""
    return dict(_distributions()[0])


def import_folders(root: Path) -> list[str]:
    """Return the folders below a root from which modules are imported, relative to it, in their order."""
    edited = [folder for project in _distributions()[1] for folder in (project / "src", project)]
    found: dict[str, None] = {}
    for folder in (*(Path(entry).absolute() for entry in sys.path), *edited):
        if folder.is_dir() and folder.resolve().is_relative_to(root.resolve()):
            relative = folder.resolve().relative_to(root.resolve())
            if not {"site-packages", "dist-packages"} & set(relative.parts):
                found[str(relative)] = None
    return list(found)


@functools.cache
def hardware() -> dict[str, Any]:
    """Describe the machine: processor, cores that this process may use, memory in bytes, graphics processors, CUDA."""
    torch = sys.modules.get("torch")
    return {
        "cpu": _processor(),
        "cores": usable_cores(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(),
        "cuda": None if torch is None else torch.version.cuda,
    }


def _processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _gpus() -> list[str]:
    """Return the names of the graphics processors, from the driver: CUDA, once asked, fails in forked processes."""
    found = []
    for file in sorted(DRIVER.glob("gpus/*/information")):
        found += [line.partition(":")[2].strip() for line in _read(file).splitlines() if line.startswith("Model:")]
    if found or shutil.which("nvidia-smi") is None:
        return found
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = capture(command, timeout=20)
        done.check_returncode()
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def threads() -> int | None:
    """Return the number of threads with which torch computes, None where it is not used."""
    torch = sys.modules.get("torch")
    return None if torch is None else int(torch.get_num_threads())


def dataset_hash(dataset: SampleDataset, stored: int | None = None, end: tuple[int, int] | None = None) -> str:
    """Return the hash of a dataset's samples, which does not depend on its folder and compression.

    It covers the fields (name, shape, dtype, role, unit) and every partition that the samples lie in: the number of its
    samples, and its checksum, which is over the values of all fields, the names of the samples (episode, step, env,
    seed), the parameters of episodes and the samples that were rejected. Sealed partitions are not read for that. It
    does not cover where samples come from (``source``), and equal samples in partitions of other sizes have another
    hash.

    Args:
        dataset: The dataset; of one with only the first samples (``mini``) the partitions that these lie in count.
        stored: Hash of the time when it had so many samples, of one that has grown.
        end: With `stored`, up to which episode and step other tables went then; see `possible_ends`.

    Returns:
        A SHA-256, hexadecimal.
    """
    from physgym.data.first_samples import digest_of_first  # h5py, which records of other runs do without

    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(json.dumps(value, separators=(",", ":")).encode() + b"\n")

    wanted, left = len(dataset), sys.maxsize if stored is None else stored
    add([dataset.mode, dataset.partitions[0].spec.to_json(), wanted])
    for part in dataset.partitions:
        if wanted <= 0:
            break
        if count := min(part.count, left):
            add([count, digest_of_first(part, count, end)])
        wanted, left = wanted - count, left - count
    return digest.hexdigest()


def ends_as_recorded(dataset: SampleDataset, stored: int, recorded: str) -> list[tuple[int, int] | None]:
    """Return how a dataset that has grown ended when its hash was recorded: one of `possible_ends`, in a list.

    Args:
        dataset: The dataset; with only the first samples (``mini``) where it was recorded so.
        stored: How many samples it had then.
        recorded: Its hash then.

    Returns:
        An empty list where its first samples are others.
    """
    from physgym.data.first_samples import possible_ends

    ends = possible_ends(dataset.partitions, stored)
    return next(([end] for end in ends if dataset_hash(dataset, stored, end) == recorded), [])
