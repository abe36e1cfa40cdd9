"""The text of a SLURM script: what it asks for, what it runs, and how it continues when its time is over."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SAVED = 128 + signal.SIGUSR2  # exit status of a command that was to end, and has saved
ENDED = 128 + signal.SIGTERM
WAIT = 120  # seconds that the processes of a training have to end after the first one
LEFT = 20  # seconds that workers have to close their simulations


@dataclass(frozen=True)
class Resources:
    """The resources that a job asks for.

    Attributes:
        name: Of the job.
        nodes: How many machines.
        time: Limit, as SLURM writes it.
        cpus: Cores on each node.
        gpus: GPUs on each node.
        partition: Where to run; empty for the cluster's own choice.
        account: Whom to charge; empty as well.
        notice: Seconds before the end at which the job saves and goes back into the queue.
        array: Elements of an array; 0 for a job by itself.
        lines: Further options of sbatch, without ``#SBATCH``.
    """

    name: str
    nodes: int
    time: str
    cpus: int = 1
    gpus: int = 0
    partition: str = ""
    account: str = ""
    notice: int = 120
    array: int = 0
    lines: Sequence[str] = ()

    def header(self, folder: Path) -> list[str]:
        """Return the lines at the beginning of a script whose output goes to a folder."""
        options = [
            f"--job-name={self.name}",
            f"--nodes={self.nodes}",
            "--ntasks-per-node=1",
            f"--cpus-per-task={self.cpus}",
            f"--time={self.time}",
            f"--signal=B:USR2@{self.notice}",
            "--requeue",
            "--open-mode=append",
            f"--output={folder}/{'%A_%a' if self.array else '%j'}.log",
        ]
        options += [f"--array=0-{self.array - 1}"] if self.array else []
        options += [f"--gpus-per-node={self.gpus}"] if self.gpus else []
        options += [f"--partition={self.partition}"] if self.partition else []
        options += [f"--account={self.account}"] if self.account else []
        return [f"#SBATCH {option}" for option in [*options, *self.lines]]


@dataclass(frozen=True)
class Alone:
    """A command of physgym that runs once, on the first node.

    Attributes:
        words: The command, such as ``train config.yaml --resume``.
    """

    words: Sequence[str]

    def lines(self, nodes: int) -> list[str]:
        """Return the lines that run it."""
        return [
            "passed_on=USR2",
            f'srun --nodes=1 --ntasks=1 "${{physgym[@]}}" {shlex.join(self.words)} &',
            "finish $!",
        ]


@dataclass(frozen=True)
class WithWorkers:
    """A command of physgym on the first node, whose simulations run in workers on all of them.

    Attributes:
        words: The command.
        workers: Processes on each node.
        env: Id that they may make; empty for the shipped ones.
        advertise: Name of the first node as the others know it, as text for the shell.
    """

    words: Sequence[str]
    workers: int
    env: str
    advertise: str

    def lines(self, nodes: int) -> list[str]:
        """Return the lines that run it."""
        allowed = f" --env {shlex.quote(self.env)}" if self.env else ""
        return [
            "passed_on=USR2",
            'invitation="$folder/invitation-$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"',
            'rm -f -- "$folder"/invitation-*',
            f'srun --overlap --relative=0 --nodes=1 --ntasks=1 "${{physgym[@]}}" {shlex.join(self.words)} \\',
            f'    --listen 0.0.0.0:0 --advertise "{self.advertise}" --token-file "$folder/token" '
            '--invitation "$invitation" &',
            "main=$!",
            f"srun --overlap --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0 \\",
            '    "${physgym[@]}" worker --invitation "$invitation" --token-file "$folder/token" \\',
            f"    --workers {self.workers}{allowed} &",
            "workers=$!",
            "finish $main",
            f'[ -n "$status" ] && [ "$status" -eq 0 ] && for _ in $(seq {LEFT}); do',
            '    kill -0 "$workers" 2>/dev/null || break',
            "    sleep 1",
            "done",
            'kill "$workers" 2>/dev/null && wait "$workers"',
        ]


@dataclass(frozen=True)
class Together:
    """A training of physgym by several processes on each node, which torchrun starts.

    Attributes:
        words: The command.
        processes: On each node.
        advertise: Name of the first node as the others know it, as text for the shell.
    """

    words: Sequence[str]
    processes: int
    advertise: str

    def lines(self, nodes: int) -> list[str]:
        """Return the lines that run it."""
        return [
            "passed_on=TERM  # torchrun passes that on, and nothing else",
            'port=$("$python" -c \'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])\')',
            "export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=$notice",
            f"srun --nodes={nodes} --ntasks={nodes} --ntasks-per-node=1 --kill-on-bad-exit=0 --wait={WAIT} bash -c \\",
            '    \'exec "$0" -m torch.distributed.run --node-rank="$SLURM_NODEID" "$@"\' \\',
            f'    "$python" --nnodes={nodes} --nproc-per-node={self.processes} '
            f'--master-addr="{self.advertise}" --master-port="$port" \\',
            f"    -m physgym {shlex.join(self.words)} &",
            "finish $!",
        ]


JobPart = Alone | WithWorkers | Together

SHELL = f"""\
# --- When the time is nearly over SLURM sends USR2 to this script: what runs saves, and the job goes back into the
# queue. TERM comes to this script and to what it has started, where the job is put back by others, preempted, or ended
# by scancel. It is not passed on: a second one, late, would end what is being saved.
announced= status= running=
job=$SLURM_JOB_ID # of an array the number of one of its elements stands for all of them
[ -z "${{SLURM_ARRAY_JOB_ID:-}}" ] || job=${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
tell() {{
    woken=yes
    [ -n "$running" ] || return
    if [ "$passed_on" = USR2 ]; then
        kill -USR2 "$running" 2>/dev/null # srun passes it on
    else
        scancel --signal=TERM "$job" # to what srun has started; srun itself would kill it
    fi
}}
trap 'announced=yes; tell' USR2
trap 'woken=yes' TERM

# finish PROCESS: waits for it, also when signals come meanwhile
finish() {{
    running=$1
    [ -z "$announced" ] || tell # it has come too early to be passed on
    while :; do
        woken=
        wait "$1"
        local now=$?
        [ "$now" -eq 127 ] || status=$now # 127: there was a signal in the instant in which it ended
        [ -n "$woken" ] && [ "$now" -ne 127 ] || break
    done
    running=
}}

# leave: ends the script with the status of what ran last, and has the job begun again where that was not done yet
leave() {{
    [ "$status" -eq 0 ] && exit 0
    if [ "$status" -eq {SAVED} ] || {{ [ -n "$announced" ] && [ "$passed_on" = TERM ]; }} || preempted; then
        if [ "${{SLURM_RESTART_COUNT:-0}}" -ge "$restarts" ]; then
            echo "it has begun $restarts times again, the most by --restarts; continue with: sbatch $folder/job.sh" >&2
        elif scontrol requeue "$job"; then
            echo "it goes back into the queue, and continues from there" >&2
            sleep 300 # SLURM ends it
        else
            echo "it cannot go back into the queue; continue with: sbatch $folder/job.sh" >&2
        fi
    fi
    exit "$status"
}}
preempted() {{
    [ "$status" -eq {ENDED} ] && scontrol show job -o "$job" | grep -q ' PreemptTime=[0-9]'
}}
"""


def script_of(
    resources: Resources,
    parts: Sequence[JobPart],
    *,
    folder: Path,
    cwd: Path,
    python: str,
    setup: Sequence[str] = (),
    restarts: int = 100,
    command: str = "physgym submit",
) -> str:
    """Return the text of a script.

    Args:
        resources: What it asks for.
        parts: What it runs, one after the other; each must continue by itself where it is run again.
        folder: Folder of the job, with the configuration, the token, and what comes of it.
        cwd: Folder in which it runs.
        python: Interpreter on the nodes.
        setup: Lines for the shell before anything else, such as ``module load``.
        restarts: How often the job goes back into the queue.
        command: What has written it.
    """
    lines = [
        "#!/bin/bash",
        f"# Written by: {command}",
        f"# Submit it with: sbatch {shlex.quote(str(folder / 'job.sh'))}",
        *resources.header(folder),
        "",
        f"cd {shlex.quote(str(cwd))} || exit 2",
        *setup,
        "",
        f"folder={shlex.quote(str(folder))} python={shlex.quote(python)} notice={resources.notice} restarts={restarts}",
        'physgym=("$python" -m physgym)',
        'export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it from sbatch since 22.05',
        "",
        SHELL,
    ]
    for number, part in enumerate(parts):
        lines += part.lines(resources.nodes)
        if number < len(parts) - 1:
            lines += [
                f'[ -z "$announced" ] || status={SAVED} # there is no time for the next part',
                '[ "$status" -eq 0 ] || leave',
            ]
    lines.append("leave")
    return "\n".join(lines) + "\n"
