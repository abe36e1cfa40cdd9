"""The command that runs a configuration as a job of a cluster."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from physgym.cli.app import app
from physgym.cli.flags import Command, Flags, Overrides, with_flags
from physgym.cli.parameters import with_values
from physgym.errors import ConfigError
from physgym.files import short

if TYPE_CHECKING:
    from physgym.slurm.script import Resources

EARLY = 60  # seconds by which SLURM may send a signal early, as sbatch's manual says
SHELL_TEXT = re.compile(r'[^"`\\\n]+')  # between double quotes


@dataclass(frozen=True)
class JobOptions:
    """Values of the options that say what a job asks of SLURM."""

    time: Annotated[
        str, typer.Option(help="Time limit, such as 4:00:00; before its end the job saves, and a new one continues.")
    ]
    nodes: Annotated[int, typer.Option(min=1, help="Number of nodes.")] = 1
    array: Annotated[
        int, typer.Option(min=0, metavar="N", help="Jobs of an array, which share the trials of a search.")
    ] = 0
    cpus: Annotated[
        int | None, typer.Option(min=1, help="Cores on each node; by default one per worker or process.")
    ] = None
    gpus: Annotated[int, typer.Option(min=0, help="GPUs on each node.")] = 0
    partition: Annotated[str, typer.Option(help="Partition of the cluster.")] = ""
    account: Annotated[str, typer.Option(help="Account that is charged.")] = ""
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help='Further option of sbatch, such as "--mem=8G"; may be repeated.'),
    ] = None
    setup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LINE", help='Shell command before all others, such as "module load cuda"; may be repeated.'
        ),
    ] = None
    notice: Annotated[int, typer.Option(min=10, help="Seconds before the time limit at which the job saves.")] = 120
    restarts: Annotated[int, typer.Option(min=0, help="How often the job may return to the queue.")] = 100

    def resources(self, folder: Path, cpus: int) -> Resources:
        """Return what the job asks for.

        Args:
            folder: Of the job, which names it.
            cpus: Cores on each node where no option says it.

        Raises:
            ConfigError: An option is wrong.
        """
        from physgym.slurm.script import Resources
        from physgym.slurm.times import seconds_of

        if seconds_of(self.time) <= self.notice + EARLY:
            raise ConfigError(
                f"--time {self.time} is {seconds_of(self.time)} seconds; --notice {self.notice}, and {EARLY} seconds "
                "by which SLURM may be early, leave none of them"
            )
        for name in ("partition", "account"):
            if value := getattr(self, name):
                _check_line(f"--{name}", value, r"[\w.,-]+")
        for line in self.sbatch or ():
            _check_line("--sbatch", line, r"-[^\n]*")
        for line in self.setup or ():
            _check_line("--setup", line, r"[^\n]*")
        return Resources(
            re.sub(r"[^\w.-]", "_", folder.name),
            self.nodes,
            self.time,
            self.cpus or cpus,
            self.gpus,
            self.partition,
            self.account,
            self.notice,
            self.array,
            lines=self.sbatch or (),
        )


def _check_line(option: str, text: str, form: str) -> None:
    if not re.fullmatch(form, text):
        example = {"--sbatch": "an option such as --mem=8G", "--setup": "one line"}.get(option, "a name")
        raise ConfigError(f"{option} {text!r}: write {example}")


@app.command(cls=Command)
@with_flags
@with_values(JobOptions, "job")
def submit(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file, or a session.", show_default=False)],
    overrides: Overrides = None,
    *,
    per_node: Annotated[
        int, typer.Option(min=0, help="Processes on each node that run simulations for the one that trains or stores.")
    ] = 0,
    processes: Annotated[
        int, typer.Option(min=0, help="Processes on each node that train one network together (torchrun).")
    ] = 0,
    only_samples: Annotated[bool, typer.Option("--only-samples", help="Generate samples; train nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder for all files of the job; by default SESSION-job.")] = None,
    advertise: Annotated[
        str, typer.Option(metavar="TEXT", help="Name of the first node for the others, as its shell reads it.")
    ] = "$(hostname)",
    python: Annotated[str, typer.Option(help="Interpreter on the nodes.")] = sys.executable,
    go: Annotated[bool, typer.Option("--go", help="Submit the job, too.")] = False,
    job: JobOptions,
    flags: Flags,
) -> None:
    """Write a SLURM script that runs a configuration.

    The job trains, searches, or generates samples. When its time is nearly over it saves, returns to the queue and
    continues from there, until it is done. The folders must be on a file system that the nodes share.

    Example: physgym submit examples/beam.yaml --nodes 4 --per-node 32 --time 4:00:00 --go
    """
    from physgym.cli.app import again
    from physgym.slurm.script import WithWorkers, script_of
    from physgym.slurm.submission import Plan, check_folder, check_sbatch, hand_over, write_job
    from physgym.slurm.times import as_words, seconds_of

    if go:
        check_sbatch()
    if not SHELL_TEXT.fullmatch(advertise):
        raise ConfigError(f"--advertise {advertise!r}: write a name, or text for the shell without quotes")
    settings = flags.load(config, overrides)
    folder = check_folder(Path(f"{settings.session}-job") if out is None else out)
    trials = 1 if settings.search is None else settings.search.workers * (settings.search.threads or 1)
    resources = job.resources(folder, per_node or processes or trials)
    if not only_samples:
        _, kept = flags.origin(config, overrides)  # nobody can be asked within the job
        if not kept:
            raise ConfigError(
                "a job continues from its session: leave --no-logging and --allow-dirty-repo out, or add --save-diff"
            )
    plan = Plan(job.nodes, per_node, processes, only_samples, advertise, _passed_on(flags), job.array)
    placed = plan.with_places(settings, folder)
    parts = plan.parts(placed, folder)
    script = script_of(
        resources,
        parts,
        folder=folder,
        cwd=Path.cwd(),
        python=python,
        setup=job.setup or (),
        restarts=job.restarts,
        command=again(),
    )
    file = write_job(folder, placed, script, token=any(isinstance(part, WithWorkers) for part in parts))
    many = f"an array of {job.array}, each of " if job.array else ""
    print(f"{short(file)}: {many}{job.nodes} node(s), at most {as_words(seconds_of(job.time))} at a time")
    print(hand_over(file) if go else f"submit it with: {shlex.join(['sbatch', short(file)])}")


def _passed_on(flags: Flags) -> list[str]:
    """Return the flags that the commands of the job need: the others are in its configuration."""
    names = ("save_diff", "allow_changed_code", "allow_dirty_repo")
    return [f"--{name.replace('_', '-')}" for name in names if getattr(flags, name)]
