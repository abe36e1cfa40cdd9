"""`WandB`: the logger whose curves Weights & Biases keeps."""

from __future__ import annotations

import hashlib
import html
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from physgym.checks import one_of
from physgym.files import short
from physgym.training.journal import JournalHead
from physgym.training.loggers import named_logger
from physgym.training.remote_logger import RemoteLogger
from physgym.training.tracker import RecordRefused, RunIsGone, Tracker

MODES = ("online", "offline")
AXES = {"batch": "physgym/batch", "epoch": "physgym/epoch", "own": "physgym/step"}
UNUSUAL, LONGEST_NAME = re.compile(r"[^A-Za-z0-9_.-]"), 128  # signs that the name of an artifact must not have
START_TIME, END_TIME = 20.0, 60.0  # seconds for the server to answer, and to take what is left
# what belongs to the program, not to the process that sends
SETTINGS = {
    "console": "off",
    "silent": True,
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "label_disable": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "init_timeout": START_TIME,
    "finish_timeout": END_TIME,
    "finish_timeout_raises": True,
}


@named_logger
class WandB(RemoteLogger):
    """Curves in Weights & Biases.

    A process of its own sends them: a server that is away neither ends nor slows the training, see `RemoteLogger`.
    Curves over batches, epochs and your own steps have axes of their own, ``physgym/batch``, ``physgym/epoch`` and
    ``physgym/step``, so that W&B drops no value for a step that is below the last one. Histograms, figures, images,
    texts and files are sent too, meshes are left out.

    Where a training is resumed that was killed, or in the mode "offline", W&B gets a new run in the same group that has
    all values from the beginning.

    The key comes from WANDB_API_KEY or ``wandb login``. W&B's error reports are off unless WANDB_ERROR_REPORTING says
    otherwise.

    Args:
        folder: Where to keep what is to be sent; made if it is not there.
        project: Name of the project.
        entity: User or team; by default yours.
        run: Name of the run; by default that of the session's folder.
        mode: "online", or "offline", which writes files below `folder` for ``wandb sync``; by default what WANDB_MODE
            says, else "online".
        later: Whether to send nothing while the training runs; ``physgym sync SESSION`` does it afterwards.
        wait: Seconds that the end of a training waits, at the most, for what is still to be sent.
        **options: Further arguments of `Logger`.

    Raises:
        ConfigError: wandb is not installed, or an argument is wrong.
    """

    title: ClassVar[str] = "the curves for W&B"
    tracker: ClassVar[str] = "physgym.training.wandb_logger:WandBTracker"
    name: ClassVar[str] = "wandb"
    package: ClassVar[str] = "wandb"
    extra: ClassVar[str] = "wandb"

    def __init__(
        self,
        folder: str | Path,
        *,
        project: str = "physgym",
        entity: str | None = None,
        run: str | None = None,
        mode: str | None = None,
        later: bool = False,
        wait: float = 30.0,
        **options: Any,
    ) -> None:
        mode = mode or os.environ.get("WANDB_MODE") or "online"
        one_of("mode", mode, MODES)
        arguments = {
            "project": project,
            "entity": entity,
            "run": run or Path(folder).absolute().parent.name,
            "mode": mode,
        }
        super().__init__(folder, arguments, later=later, wait=wait, **options)

    def shown_by(self) -> str:
        """Return where the curves go."""
        found = self._head.arguments
        if found["mode"] == "offline":
            return f"wandb sync {short(self.folder)}/wandb/offline-run-*"
        return f"W&B, {'/'.join(part for part in (found['entity'], found['project'], found['run']) if part)}"


class WandBTracker(Tracker):
    """Sender of values to W&B; the arguments are "project", "entity", "run" and "mode".

    W&B's own process keeps what it is given and sends it when it can. So a run of which it does not say that everything
    has arrived is not gone on with: all values go to a new one.
    """

    def __init__(self, arguments: Mapping[str, Any], folder: Path) -> None:
        super().__init__(arguments, folder)
        self._former: list[str] = []  # folders of offline runs, all of whose values the new one has
        self._known: set[str] = set()  # curves whose axis W&B knows

    def begin(self, head: JournalHead, remote: Mapping[str, Any] | None) -> None:
        """Begin a run, or continue with one that is whole."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        offline = self.arguments["mode"] == "offline"
        if remote is not None and (offline or remote.get("superseded") or not remote.get("whole")):
            self._former = [*remote.get("former", ()), *([remote["folder"]] if offline else ())]
            raise RunIsGone
        self._run = wandb.init(
            project=self.arguments["project"],
            entity=self.arguments["entity"],
            name=self.arguments["run"],
            group=f"{self.arguments['run']}-{head.run}",
            id=None if remote is None else remote["id"],
            resume=None if remote is None else "allow",
            mode=self.arguments["mode"],
            dir=str(self.folder),
            config=dict(head.config),
            settings=wandb.Settings(**SETTINGS, root_dir=str(self.folder)),
        )
        self.remote = {"id": self._run.id, "whole": False, "folder": self._folder(), "former": self._former}

    def _folder(self) -> str:
        """Return the folder of the run's own files, relative to that of the journal."""
        return str(Path(self._run.settings.sync_dir).relative_to(self.folder.absolute()))

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Hand records to W&B's own process: all, or none where it does not take one of them."""
        made = [self._made(record) for record in records]
        self.remote["whole"] = False
        for record, found in zip(records, made, strict=True):
            if not isinstance(found, dict):
                self._run.log_artifact(found)
                continue
            axis = AXES[record.get("axis", "own")]
            for name in found.keys() - self._known:
                self._known.add(name)
                if name and "*" not in name:  # which stands for any signs there
                    self._run.define_metric(name, step_metric=axis)
            # an axis of our own: W&B's counts on, so that no value is dropped
            self._run.log({**found, axis: record["step"], "_timestamp": record["time"]})

    def _made(self, record: Mapping[str, Any]) -> Any:
        """Return the values of a row by their names, or an artifact.

        Raises:
            RecordRefused: W&B takes no such record, or its file is gone.
        """
        try:
            if "values" in record:
                return {name: float(value) for name, value in record["values"].items()}
            return self._artifact(record) if record["kind"] == "file" else {record["name"]: self._medium(record)}
        except (ValueError, TypeError, OSError) as error:
            raise RecordRefused(f"{record.get('name')!r}: {error}") from error

    def _medium(self, record: Mapping[str, Any]) -> Any:
        import wandb

        if record["kind"] == "image":
            return wandb.Image(str(self.folder / record["file"]))
        if record["kind"] == "histogram":
            return wandb.Histogram(np_histogram=(record["counts"], record["edges"]))
        return wandb.Html(f"<pre>{html.escape(record['text'])}</pre>", inject=False)

    def _artifact(self, record: Mapping[str, Any]) -> Any:
        import wandb

        artifact = wandb.Artifact(artifact_name(record["name"]), "file")
        artifact.add_file(str(self.folder / record["file"]))
        return artifact

    def end(self) -> None:
        """Wait until W&B has everything.

        Raises:
            TimeoutError: It has not.
        """
        self._run.finish()
        if self.arguments["mode"] == "offline":
            import wandb

            wandb.teardown()  # its own process writes the file; some of it after `finish` has returned
        self.remote["whole"] = True
        for former in self.remote.pop("former"):
            self._remove(self.folder / former)

    def _remove(self, former: Path) -> None:
        """Remove the files of an offline run that nobody has sent, so that nobody sends the same values twice."""
        if former.name.startswith("offline-run-") and not any(former.glob("*.synced")):
            shutil.rmtree(former, ignore_errors=True)


def artifact_name(name: str) -> str:
    """Return a name that W&B takes; one that is changed has a sum of the old one, so that no two become one."""
    usual = UNUSUAL.sub("_", name)
    if usual == name and 0 < len(name) <= LONGEST_NAME:
        return name
    return f"{usual[: LONGEST_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
