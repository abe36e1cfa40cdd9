"""Makes the folder of a job of SLURM, and hands its script over."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from physgym.errors import ConfigError, needs
from physgym.experiment.dataset_plan import ONE_DATASET, is_complete
from physgym.experiment.runs import check
from physgym.experiment.schema import Config
from physgym.experiment.yaml_text import to_yaml
from physgym.files import absolute, creating
from physgym.machines.address import read_token
from physgym.machines.permissions import HARMLESS
from physgym.registration import ELSEWHERE
from physgym.slurm.script import Alone, JobPart, Together, WithWorkers
from physgym.system.children import capture
from physgym.training.trainer import ALONE

ANSWER = 60.0  # seconds for sbatch
SCRIPT, SETTINGS, TOKEN = "job.sh", "config.yaml", "token"
PLAIN = re.compile(r"[\w./+@,:=-]+")  # what SLURM takes for itself in the name of a file


@dataclass(frozen=True)
class Plan:
    """The work of a job.

    Attributes:
        nodes: Machines.
        workers: Processes on each of them that run simulations; 0 for none but those of the configuration.
        processes: Processes on each of them that train one network together; 0 for one process alone.
        only_samples: Whether to generate samples and nothing else.
        advertise: Name of the first node for the others, as text for the shell.
        flags: Options that every command of the job gets.
        array: Elements of an array that work on one search; 0 for a job by itself.
    """

    nodes: int = 1
    workers: int = 0
    processes: int = 0
    only_samples: bool = False
    advertise: str = "$(hostname)"
    flags: Sequence[str] = ()
    array: int = 0

    def with_places(self, config: Config, folder: Path) -> Config:
        """Return the configuration with the places of what the job makes, all in its folder."""
        changed = {"session": str(folder / "session")}
        made_first = self.only_samples or self.trains_together
        if made_first and config.dataset.path is None and config.dataset.type is None:
            return config.model_copy(
                update={**changed, "dataset": config.dataset.model_copy(update={"path": str(folder / "dataset")})}
            )
        return config.model_copy(update=changed)

    @property
    def trains_together(self) -> bool:
        """Return whether several processes train."""
        return self.nodes * self.processes > 1

    def parts(self, config: Config, folder: Path) -> list[JobPart]:
        """Return what runs, one after the other.

        Args:
            config: As `with_places` gives it.
            folder: Of the job.

        Raises:
            ConfigError: The configuration does not go with it.
        """
        self._check(config)
        kind = "search" if config.search is not None else "train"
        settings = str(folder / SETTINGS)
        generate = ("generate", settings, "--resume", *self.flags)
        last = (kind, settings, "--join" if self.array else "--resume", *self.flags)
        if self.only_samples:
            return [self._with_workers(config, generate) if self.workers else Alone(generate)]
        if self.trains_together:
            begin: list[JobPart] = []
            if not is_complete(config, None):
                begin = [self._with_workers(config, generate) if self.workers else Alone(generate)]
            return [*begin, Together(last, self.processes, self.advertise)]
        return [self._with_workers(config, last) if self.workers else Alone(last)]

    def _with_workers(self, config: Config, words: Sequence[str]) -> WithWorkers:
        env = "" if config.environment is None or config.environment.id in HARMLESS else config.environment.id
        return WithWorkers(words, self.workers, env, self.advertise)

    def _check(self, config: Config) -> None:
        """Raise ConfigError where the configuration does not go with this plan."""
        if self.workers and config.environment is None:
            raise ConfigError(
                "--per-node: workers run the simulation of the section environment, and there is none; leave it out"
            )
        if self.workers and config.environment is not None and config.environment.id.startswith(ELSEWHERE):
            raise ConfigError(
                f"--per-node starts physgym worker, and {config.environment.id} is made by a program of its own; have "
                "that connect"
            )
        if self.workers and config.agent is not None:
            raise ConfigError("--per-node: the environments of an agent run with it, on one node; leave it out")
        if self.workers and config.search is not None:
            raise ConfigError("--per-node: a search takes nodes as elements of an array (--array N); leave it out")
        if self.workers and not self.only_samples and is_complete(config, None):
            raise ConfigError("--per-node: the samples of dataset.path are there already; leave it out")
        if self.array and (config.search is None or self.nodes > 1 or self.only_samples or self.processes):
            raise ConfigError(
                "--array: the elements of an array share the trials of a search, each on one node: it needs a section "
                "search, and no --nodes, --only-samples and --processes"
            )
        if self.only_samples and (config.search is not None or self.processes):
            raise ConfigError("--only-samples trains nothing; leave search and --processes out")
        if isinstance(config.dataset.path, list) and (self.workers or self.only_samples):
            raise ConfigError(ONE_DATASET)
        if self.trains_together:
            if config.agent is not None or config.search is not None:
                raise ConfigError("--processes: an agent and a search are trained by one process each; leave it out")
            if config.dataset.produce != "before":
                raise ConfigError(f"--processes: {ALONE}; set dataset.produce=before")
        if self.nodes > 1 and not self.workers and not self.trains_together:
            raise ConfigError(
                f"--nodes {self.nodes}: one process would use one of them. Let workers simulate on all (--per-node N), "
                "or processes train together (--processes N)"
            )
        if self.workers:
            with needs("cryptography", "machines", "--per-node"):
                import cryptography  # noqa: F401 - the certificate of the run
        if not self.only_samples and config.search is None:
            check(config)


def check_folder(folder: Path) -> Path:
    """Return the folder of a job, which is to be made.

    Raises:
        ConfigError: There is one already, or SLURM would take its name for something else.
    """
    folder = absolute(folder)
    if not PLAIN.fullmatch(str(folder)):
        raise ConfigError(
            f"--out: SLURM does not take {str(folder)!r} as the folder of its output: use letters, digits and ._-+@ "
            "alone, without spaces; by default it is that of the session with -job behind it"
        )
    if folder.exists():
        raise ConfigError(f"--out: {folder} exists; each job has a folder of its own: name one with --out")
    return folder


def check_sbatch() -> None:
    """Raise ConfigError where SLURM's command is not there."""
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "--go: there is no sbatch on this machine. Leave --go out to write the script alone, and submit it on a "
            "machine of the cluster"
        )


def write_job(folder: Path, config: Config, script: str, *, token: bool) -> Path:
    """Make the folder of a job, which nobody else can look into; return its script.

    Args:
        folder: To be made.
        config: Its configuration.
        script: Text of its script.
        token: Whether it needs a secret that workers prove.

    Raises:
        ConfigError: It cannot be made; nothing is left of it.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with creating(folder) as temporary:
            temporary.mkdir(mode=0o700)
            (temporary / ".gitignore").write_text("*\n")  # it is no change of a repository
            (temporary / SETTINGS).write_text(to_yaml(config.model_dump()), "utf-8")
            (temporary / SCRIPT).write_text(script, "utf-8")
            (temporary / SCRIPT).chmod(0o700)
            if token:
                read_token(temporary / TOKEN, make=True)
    except OSError as error:
        raise ConfigError(f"--out: cannot make {folder}: {error.strerror}") from error
    return folder / SCRIPT


def hand_over(script: Path) -> str:
    """Submit a script; return what SLURM says to it.

    Raises:
        ConfigError: It refuses.
    """
    try:
        done = capture(["sbatch", str(script)], timeout=ANSWER)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"sbatch does not answer: {error}. The script stays: {script}") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        again = shlex.join(["sbatch", str(script)])
        raise ConfigError(f"sbatch refuses the job: {said}\nThe script stays; when it is right: {again}")
    return done.stdout.decode(errors="replace").strip()
