"""`MLflow`: the logger whose curves an MLflow server, or a local store of MLflow, keeps."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn
from urllib.parse import urlsplit

from physgym.errors import ConfigError
from physgym.files import absolute, short
from physgym.training.journal import JournalHead, by_dotted_key
from physgym.training.loggers import named_logger
from physgym.training.remote_logger import RemoteLogger
from physgym.training.tracker import RecordRefused, RunIsGone, Tracker

MOST_METRICS, MOST_PARAMETERS = 1000, 100  # in one request
LONGEST_NAME, LONGEST_VALUE = 250, 6000
UNUSUAL = re.compile(r"[^/\w.\- :]")  # signs that a name must not have
SQLITE, DATABRICKS = "sqlite:///", ("databricks", "databricks-uc", "uc")
GONE, REFUSED = "RESOURCE_DOES_NOT_EXIST", ("INVALID_PARAMETER_VALUE", "BAD_REQUEST")
# a server that does not answer is a matter of seconds: there is another attempt later
VARIABLES = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ALLOW_FILE_STORE": "true",
}


@named_logger
class MLflow(RemoteLogger):
    """Curves in MLflow.

    A process of its own sends them: a server that is away neither ends nor slows the training, see `RemoteLogger`.
    Curves over batches, epochs and your own steps are metrics, the configuration is the parameters, figures, images,
    texts and files are artifacts. Histograms and meshes are left out. Signs that a name of a metric cannot have become
    ``_``, with a short sum behind the name, so that two names stay two.

    Names, passwords and tokens come from MLflow's own environment variables, such as MLFLOW_TRACKING_TOKEN. MLflow's
    telemetry is off unless MLFLOW_DISABLE_TELEMETRY says otherwise.

    Args:
        folder: Where to keep what is to be sent; made if it is not there.
        uri: The server, such as "http://localhost:5000", or a local store, such as "sqlite:///mlflow.db"; by default
            what MLFLOW_TRACKING_URI says, else the file ``mlflow.db`` in `folder`, which needs sqlalchemy and alembic.
        experiment: Name of the experiment.
        run: Name of the run; by default that of the session's folder.
        later: Whether to send nothing while the training runs; ``physgym sync SESSION`` does it afterwards.
        wait: Seconds that the end of a training waits, at the most, for what is still to be sent.
        **options: Further arguments of `Logger`.

    Raises:
        ConfigError: mlflow is not installed, or an argument is wrong, such as a `uri` with a password.
    """

    title: ClassVar[str] = "the curves for MLflow"
    tracker: ClassVar[str] = "physgym.training.mlflow_logger:MLflowTracker"
    name: ClassVar[str] = "mlflow"
    package: ClassVar[str] = "mlflow"
    extra: ClassVar[str] = "mlflow"

    def __init__(
        self,
        folder: str | Path,
        *,
        uri: str | None = None,
        experiment: str = "physgym",
        run: str | None = None,
        later: bool = False,
        wait: float = 30.0,
        **options: Any,
    ) -> None:
        uri = whole_uri(uri or os.environ.get("MLFLOW_TRACKING_URI"))
        if uri is not None and urlsplit(uri).password is not None:
            raise ConfigError(
                "the uri of MLflow has a password, which the session would keep; leave it out, and set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or what the database has for that"
            )
        arguments = {"uri": uri, "experiment": experiment, "run": run or Path(folder).absolute().parent.name}
        super().__init__(folder, arguments, later=later, wait=wait, **options)

    def shown_by(self) -> str:
        """Return where the curves go."""
        store = self._head.arguments["uri"] or f"sqlite:///{self.folder / 'mlflow.db'}"
        return store if store.startswith("http") else f"mlflow ui --backend-store-uri {store}"


class MLflowTracker(Tracker):
    """Sender of values to MLflow; the arguments are "uri", "experiment" and "run"."""

    def begin(self, head: JournalHead, remote: Mapping[str, Any] | None) -> None:
        """Begin a run, or continue with one."""
        for name, value in VARIABLES.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._client, self._error = MlflowClient(tracking_uri=self._store()), MlflowException
        if remote is not None:
            self._go_on(remote)
            return
        experiment = self._experiment()
        copy = f"{head.run}-{self.remote.get('copies', 0)}"
        # one whose answer did not arrive was begun all the same
        found = self._client.search_runs([experiment], f"tags.`physgym.run` = '{copy}'", max_results=1)
        begun = [run for run in found if not run.data.metrics]
        tags = {"physgym.run": copy}
        run = begun[0] if begun else self._client.create_run(experiment, run_name=self.arguments["run"], tags=tags)
        self.remote = {"run": run.info.run_id, "copies": self.remote.get("copies", 0)}
        self._send_config(head.config)

    def _go_on(self, remote: Mapping[str, Any]) -> None:
        """Continue with a run that is there.

        Raises:
            RunIsGone: It was deleted, or has values that are superseded.
        """
        if remote.get("superseded"):
            text = "a training that was resumed has repeated the end of this run: the run after it has all values"
            self._client.set_tag(remote["run"], "physgym.superseded", text)
            self._client.set_terminated(remote["run"], "KILLED")
            self._leave(remote)
        try:
            run = self._client.get_run(remote["run"])
        except self._error as error:
            if error.error_code != GONE:
                raise
            run = None
        if run is None or run.info.lifecycle_stage == "deleted":
            self._leave(remote)
        self._client.update_run(remote["run"], status="RUNNING")
        self.remote = dict(remote)

    def _leave(self, remote: Mapping[str, Any]) -> NoReturn:
        """Have all values sent to another run."""
        self.remote = {"copies": remote["copies"] + 1}
        raise RunIsGone

    def _store(self) -> str:
        return self.arguments["uri"] or f"sqlite:///{self.folder.absolute() / 'mlflow.db'}"

    def _experiment(self) -> str:
        """Return the experiment, which is made if need be; the files of the default store lie next to it."""
        name = self.arguments["experiment"]
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return str(found.experiment_id)
        own = None if self.arguments["uri"] else (self.folder.absolute() / "mlflow-artifacts").as_uri()
        return str(self._client.create_experiment(name, artifact_location=own))

    def _send_config(self, config: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        values = [Param(metric_name(key), str(value)[:LONGEST_VALUE]) for key, value in by_dotted_key(config)]
        for start in range(0, len(values), MOST_PARAMETERS):
            self._client.log_batch(self.remote["run"], params=values[start : start + MOST_PARAMETERS])

    def send(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Send records."""
        from mlflow.entities import Metric

        run = self.remote["run"]
        metrics = [
            Metric(metric_name(name), float(value), int(record["time"] * 1000), record["step"])
            for record in records
            for name, value in record.get("values", {}).items()
        ]
        try:
            # before the curves: where all is sent again, a file replaces itself, and a point may be there twice
            for record in records:
                self._send_other(run, record)
            for start in range(0, len(metrics), MOST_METRICS):
                self._client.log_batch(run, metrics=metrics[start : start + MOST_METRICS])
        except self._error as error:
            if error.error_code in REFUSED:
                raise RecordRefused(str(error)) from error
            raise

    def _send_other(self, run: str, record: Mapping[str, Any]) -> None:
        kind = record.get("kind")
        if kind == "text":
            self._client.log_text(run, record["text"], f"{metric_name(record['name'])}/{record['step']}.txt")
        elif kind in ("image", "file"):
            place = metric_name(record["name"]) + (f"/{record['step']}" if kind == "image" else "")
            file = self.folder / record["file"]
            if not file.is_file():
                raise RecordRefused(f"{record['name']!r}: there is no file {short(file)} any more")
            self._client.log_artifact(run, str(file), place)

    def end(self) -> None:
        """Say that the training has ended."""
        self._client.set_terminated(self.remote["run"])


def whole_uri(uri: str | None) -> str | None:
    """Return the address of a server, or of a local store by its whole path, which is the same in every folder."""
    if not uri or uri.partition(":")[0] in DATABRICKS:
        return uri or None
    if uri.startswith(SQLITE) and not uri.startswith(f"{SQLITE}/"):
        return f"{SQLITE}{absolute(uri.removeprefix(SQLITE))}"
    return uri if "://" in uri else absolute(uri.removeprefix("file:")).as_uri()


def metric_name(name: str) -> str:
    """Return a name that MLflow takes; one that is changed has a sum of the old one, so that no two become one."""
    usual = UNUSUAL.sub("_", name)
    path = posixpath.normpath(usual)
    if usual == name and path == name and not path.startswith((".", "/")) and len(name) <= LONGEST_NAME:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{path.replace('..', '_').strip('/.')[: LONGEST_NAME - 9]}_{mark}"
