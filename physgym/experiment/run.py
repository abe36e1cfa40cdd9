"""A run of a session, written to its record from its beginning to its end."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from physgym.code.record import Code, check_same, last_known
from physgym.code.search import code_of
from physgym.data.provenance import code_of_part
from physgym.errors import CheckpointError, ConfigError, PhysGymError
from physgym.experiment.provenance import Origin, dataset_hash, ends_as_recorded
from physgym.experiment.record import FORMAT, TERMINATED, as_text, read_record
from physgym.experiment.references import SAMPLES, SamplesKey, actions_of, checkpoints_of, digest_of, get, start_of
from physgym.experiment.report_text import write_info
from physgym.experiment.session import CONFIG, RECORD, discard, is_empty, take_lock
from physgym.experiment.yaml_text import to_yaml
from physgym.files import write_atomically
from physgym.interrupt import ExitSignals
from physgym.real_time import SOURCE, was_in_real_time
from physgym.storage.location import place

if TYPE_CHECKING:
    from physgym.data.dataset import SampleDataset
    from physgym.data.dataset_parts import EpisodeSplit

SessionKind = Literal["train", "generate", "search", "demo"]
CANNOT_WRITE = "cannot write {file}: {reason}"


def _code_of(config: Mapping[str, Any]) -> Code | None:
    """Return the code of a configuration's simulation, unknown if it cannot be imported; None without a simulation."""
    env = get(config, "environment", "id")
    if not isinstance(env, str):
        return None
    try:
        return code_of(env, get(config, "environment", "arguments") or {})
    except ConfigError as error:
        return Code(unknown=(str(error),))


class Run:
    """One run of a session, in its record; a session that was resumed has several.

    The record is written before the first step, and completed when the ``with`` block ends, however it ends: SIGTERM,
    with which clusters end jobs, and SIGHUP, of a terminal that is closed, raise `SystemExit` in it; the second one
    ends the process. A killed run leaves the record as it is, from which `state` infers that it died.

    A session that is resumed keeps its configuration, also in its record, until the new one is `accepted`: what is
    refused before leaves nothing behind.

    Args:
        session: The folder.
        kind: What is done.
        config: The resolved configuration.
        origin: How the run came about; by default what can be seen from here.
        from_python: Whether a program made it, of which the configuration knows a part.
        device: Which device computes, where that is known already; see `note_device`.

    Attributes:
        session: The folder.
        results: Metrics at the end, numbers by name; to be filled.
        outcome: How it ended; "completed" unless it is set to something else, or there is an exception.

    Raises:
        ConfigError: Another process works in the session, its record is damaged, or the disk refuses.
    """

    def __init__(
        self,
        session: Path,
        kind: SessionKind,
        config: Mapping[str, Any],
        origin: Origin | None = None,
        *,
        from_python: bool = False,
        device: object = None,
    ) -> None:
        self.session = session
        self.results: dict[str, Any] = {}
        self.outcome = "completed"
        self._from_python, self._signals = from_python, ExitSignals()
        origin = Origin.here() if origin is None else origin
        self._config = dict(config)
        self._lock: Any = take_lock(session)
        try:
            self._write(kind, origin, device)
        except OSError as error:
            self._lock.release()
            raise ConfigError(CANNOT_WRITE.format(file=session / RECORD, reason=error.strerror or error)) from error
        except BaseException:
            if not (session / RECORD).exists():
                discard(session)
            self._lock.release()
            raise

    def _write(self, kind: SessionKind, origin: Origin, device: object) -> None:
        self._text = to_yaml(self._config)
        before = read_record(self.session) if (self.session / RECORD).exists() else {"runs": []}
        earlier = before["runs"]
        code = _code_of(self._config)
        known = last_known([run.get("code") for run in earlier])
        if code is not None and code.unknown and known is None:
            code = None  # making the simulation says what is wrong with it
        if earlier and code is not None:
            check_same(known, code, f"the session {self.session}", allow=origin.allow_changed_code)
        number, patch = len(earlier) + 1, None
        if origin.patch is not None:
            patch = f"changes-{number}.patch"
            write_atomically(self.session / patch, origin.patch)
        self._run: dict[str, Any] = {
            "kind": kind,
            "from_python": self._from_python,
            "start": _now(),
            "end": None,
            "outcome": None,
            **origin.record(),
            "patch": patch,
            "code": None if code is None else code.to_json(),
            "start_from": digest_of(start_of(self._config)),
            "actions_from": digest_of(actions_of(self._config)),
            "device": None if device is None else str(device),
            "dataset": None,
            "others": {},
            "results": {},
            "weights": None,
        }
        self._record = {
            "format": FORMAT,
            "session": self.session.name,
            "description": before.get("description", ""),
            "seed": before.get("seed"),
            "runs": [*earlier, self._run],
        }
        self._accepted = not (self.session / CONFIG).exists()
        if self._accepted:
            self._take_config()
        self._save()

    def _take_config(self) -> None:
        write_atomically(self.session / CONFIG, self._text)
        self._record["description"] = str(self._config.get("description") or "")
        self._record["seed"] = self._config.get("seed")

    def accepted(self) -> None:
        """Accept the configuration for what is resumed: it takes the place of the session's earlier one.

        In a new session, and where a run ends without an exception, this is so by itself. Calling it again does no
        harm.

        Raises:
            ConfigError: The disk refuses.
        """
        if not self._accepted:
            try:
                self._take_config()
                self._save()
            except OSError as error:
                raise ConfigError(CANNOT_WRITE.format(file=self.session / CONFIG, reason=error.strerror)) from error
            self._accepted = True

    def _save(self) -> None:
        text = as_text(self._record)
        write_atomically(self.session / RECORD, text + "\n")
        write_info(
            self.session, json.loads(text), self._run["outcome"] or "running, or killed; physgym show tells which"
        )

    def _save_or_refuse(self) -> None:
        try:
            self._save()
        except OSError as error:
            raise ConfigError(CANNOT_WRITE.format(file=self.session / RECORD, reason=error.strerror)) from error

    def note_device(self, device: object) -> None:
        """Note which device computes, such as the one that ``auto`` is here.

        Raises:
            ConfigError: The disk refuses.
        """
        self._run["device"] = str(device)
        self._save_or_refuse()

    def describe_dataset(
        self, dataset: SampleDataset, what: SamplesKey = "dataset", split: EpisodeSplit | None = None
    ) -> None:
        """Note which samples are used: where they are, how many, and their hash; again where there are more now.

        Args:
            dataset: The samples.
            what: What they are for: "dataset" are those that it is about, "validation" those of ``validation.path``,
                "load_samples" those of ``dataset.load_samples``, "cache" the recordings of ``agent.cache``.
            split: Division of their episodes into parts.

        Raises:
            ConfigError: The disk refuses, or a training is continued on other samples in the same place.
        """
        # objects in S3 are read as a copy
        named = get(self._config, *SAMPLES[what]) or dataset.paths
        path = named if isinstance(named, str) else ", ".join(map(str, named))
        samples = _described(dataset, path)
        if split is not None:
            samples["split"] = split.to_json()
        self._note(self._run if what == "dataset" else self._run["others"], what, samples, dataset)

    def describe_replay(self, dataset: SampleDataset) -> None:
        """Note what an agent has recorded while it learned; of a bounded replay the oldest files are gone.

        Args:
            dataset: The replay.

        Raises:
            ConfigError: The disk refuses.
        """
        self._run["dataset"] = _described(dataset, ", ".join(map(str, dataset.paths)))
        self._save_or_refuse()

    def describe_test(self, name: str, dataset: SampleDataset) -> None:
        """Note a test set, as `describe_dataset` does; of a part of a dataset its whole mode.

        Args:
            name: Its name.
            dataset: Its samples.

        Raises:
            ConfigError: As for `describe_dataset`.
        """
        whole = type(dataset)(dataset.places, dataset.mode)
        samples = _described(whole, ", ".join(map(str, dataset.places)))
        self._note(self._run["others"], f"test {name}", samples, whole)

    def _note(self, notes: dict[str, Any], what: str, samples: dict[str, Any], dataset: SampleDataset) -> None:
        self._check_continued(what, samples, dataset)
        if samples != notes.get(what):
            notes[what] = samples
            self._save_or_refuse()

    def _check_continued(self, what: str, samples: Mapping[str, Any], dataset: SampleDataset) -> None:
        """Raise ConfigError where a training that is continued finds other samples in the same place, or more.

        More samples to validate, to test or to begin with are said.
        """
        for before in self._record["runs"][:-1]:
            others = before.get("others") or {}  # of an early version, which noted none
            then = (before["dataset"] if what == "dataset" else others.get(what)) or samples
            if before["kind"] != "train" or self._run["kind"] != "train":
                continue
            if any(then.get(key) != samples.get(key) for key in ("path", "mode")):
                continue
            if samples["samples"] > then["samples"] and get(self._config, "dataset", "produce") in (None, "before"):
                text = f"{samples['path']} ({what}) has grown since this session began, from {then['samples']} samples"
                if what != "dataset":
                    print(f"{text}; all {samples['samples']} are taken from now on", file=sys.stderr)
                    continue
                raise ConfigError(
                    f"{text} to {samples['samples']}. A training continues with the samples with which it began, which "
                    f"are the first ones: dataset.mini={then['samples']}. Or begin a new session with all"
                )
            if then["samples"] != samples["samples"] or then["hash"] == samples["hash"]:
                continue
            if not ends_as_recorded(dataset, then.get("stored", then["samples"]), then["hash"]):  # it may have grown
                raise ConfigError(
                    f"the {samples['samples']} samples in {samples['path']} ({what}) are not those with which this "
                    f"session began: their hash is {samples['hash'][:16]}, it was {then['hash'][:16]}. Bring them "
                    "back, or begin a new session with these"
                )

    def __enter__(self) -> Self:
        self._signals.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.__exit__()
        if self._signals.received is not None and isinstance(error, SystemExit):
            self.outcome = TERMINATED
        elif isinstance(error, KeyboardInterrupt):
            self.outcome = "interrupted" if self.outcome == "completed" else self.outcome
        elif error is not None:
            self.outcome = f"{type(error).__name__}: {error}"
        try:
            if error is None and not self._accepted:
                self._take_config()
            if not self._accepted and isinstance(error, PhysGymError) and len(self._record["runs"]) > 1:
                self._forget()
                return
            refused = isinstance(error, (ConfigError, CheckpointError, KeyboardInterrupt))
            if refused and len(self._record["runs"]) == 1 and is_empty(self.session):
                discard(self.session)  # the name is free for the right one
                return
            self._run |= {"end": _now(), "outcome": self.outcome, "results": dict(self.results)}
            with contextlib.suppress(PhysGymError):  # a damaged checkpoint says so when it is used
                self._run["weights"] = self._last_weights()
            self._save()
        except OSError as failure:
            text = CANNOT_WRITE.format(file=self.session / RECORD, reason=failure.strerror or failure)
            if error is None:
                raise ConfigError(f"{text}. The run itself ended: {self.outcome}") from failure
            print(text, file=sys.stderr)  # what it ended with says more
        finally:
            self._lock.release()

    def _forget(self) -> None:
        """Restore the session as it was before a run that was refused."""
        refused = self._record["runs"].pop()
        self._run = self._record["runs"][-1]
        self._save()
        if refused["patch"] is not None:
            (self.session / refused["patch"]).unlink(missing_ok=True)

    def _last_weights(self) -> str | None:
        """Return the digest of the weights in the last checkpoint; None where there is none."""
        elsewhere = checkpoints_of(self._config) if self._run["kind"] == "train" else None
        folder = place(elsewhere or self.session / "networks")
        if isinstance(folder, Path) and not folder.is_dir():
            return None
        from physgym.training.checkpoint_folders import list_checkpoints
        from physgym.training.checkpoint_manifests import WEIGHTS

        last = list(list_checkpoints(folder).values())[-1:]  # the weights of one in S3 are not fetched for that
        return str(last[0]["files"][WEIGHTS][1]) if last else None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _described(dataset: SampleDataset, path: str) -> dict[str, Any]:
    """Return what a record says of samples: where they are, how many, their hash, and the code that made them."""
    mode = {} if dataset.mode == "training" else {"mode": dataset.mode}
    found: dict[str, Any] = {"path": path, "samples": len(dataset), **mode, "hash": dataset_hash(dataset)}
    if was_in_real_time(dataset.source):
        found[SOURCE] = True
    if (stored := sum(part.count for part in dataset.partitions)) != len(dataset):
        found["stored"] = stored
    return {**found, "code": code_of_part(dataset.provenance)}
