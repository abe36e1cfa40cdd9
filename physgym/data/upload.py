"""`Mirror`: brings a dataset to S3 while it is written."""

from __future__ import annotations

import hashlib
import json
import logging
import secrets
import shutil
import threading
import time
from pathlib import Path
from typing import Any, get_args

from physgym.data import constants
from physgym.data.description import DESCRIPTION, Description, Mode, as_text, describe_partitions, partition_files
from physgym.data.partition import Partition
from physgym.data.partition_file import sealed_copy
from physgym.data.remote import RemoteDescription, read_description
from physgym.errors import DatasetError, StorageError
from physgym.files import write_atomically
from physgym.storage.backend import ChangedObject, Stopped, Unreachable, open_storage, seconds
from physgym.storage.cache import Cache, read_state, state_file
from physgym.storage.location import Location

log = logging.getLogger(__name__)

INTERVAL_VARIABLE = "PHYSGYM_S3_INTERVAL"
INTERVAL = 300.0  # seconds after which the samples of a partition that is not full are uploaded
SOON = 3.0  # seconds of uploading that nobody need hear of
LEAST = 0.1  # seconds between looks whether there is something to upload
PAUSE = 10.0  # seconds until the next attempt after the server was away for too long


class Mirror:
    """Uploads the partitions of a dataset that is written to a folder of the cache.

    A thread uploads those that are sealed, and every five minutes (PHYSGYM_S3_INTERVAL seconds) a sealed copy of the
    one that is not; then it replaces the description, on condition that it is still the one of this mirror. While the
    server is away the samples stay in the folder.

    Args:
        location: Where to.

    Attributes:
        folder: Where the dataset is written.

    Raises:
        ConfigError: boto3 is missing, or its configuration is wrong.
        StorageError: The cache cannot be made.
    """

    def __init__(self, location: Location) -> None:
        self.location = location
        self._store, self._cache = open_storage(location), Cache()
        self.folder = self._cache.writing / hashlib.sha256(self._store.identity.encode()).hexdigest()[:32]
        self._pin = self._cache.pin(self.folder)
        self._copies = self.folder.with_name(f"{self.folder.name}.copies")
        self._interval = seconds(INTERVAL_VARIABLE, INTERVAL)
        self._described: RemoteDescription | None = None  # as it is in S3
        self._state: dict[str, Any] = {}
        self._uploaded: dict[str, tuple[Partition, dict[str, Any]]] = {}  # by file, as it was then
        self._hashed: dict[str, str] = {}  # SHA-256 of files, by name
        self._fault: StorageError | None = None
        self._closing, self._wake = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    # --- opening

    def prepare(self, mode: Mode, resume: bool) -> None:
        """Bring what is to be continued to the folder, whose lock the writer holds.

        Raises:
            DatasetError: There are samples already, or another writer is at work.
            StorageError: The server refuses or is away, or the dataset there is another one than that in the folder.
        """
        self._state = {"token": secrets.token_hex(4), "published": True, "written": [], **read_state(self.folder)}
        self._give_up_uploads()
        self._described = found = read_description(self._store)
        here = [file for known in get_args(Mode) for file in partition_files(self.folder, known)]
        gone_on = found is not None and found.sha256 not in self._state["written"]
        if here and (gone_on or found is None) and self._state["published"]:
            for file in here:  # S3 had all of it, and has something else now
                file.unlink()
            for name in (DESCRIPTION, constants.CONSTANTS):
                (self.folder / name).unlink(missing_ok=True)
            here = []
        entries = found.entries(mode) if found is not None else []
        if not resume:
            if entries:
                raise DatasetError(
                    f"{self.location} already holds {mode} samples ({len(entries)} partitions). Continue it with "
                    "physgym generate --resume (resume=True), or choose another place"
                )
            if found is not None and found.data.get("writer"):
                raise DatasetError(
                    f"{self.location} is being written, or its writer was killed. If none is at work any more, take "
                    "over with resume=True (physgym generate --resume)"
                )
            if partition_files(self.folder, mode):
                raise DatasetError(
                    f"{self.folder} holds {mode} samples for {self.location} that were not uploaded. Continue them "
                    "with resume=True, or delete the folder"
                )
        if here and gone_on:
            raise StorageError(
                f"{self.location} was continued elsewhere, while {self.folder} holds samples for it that were not "
                "uploaded. Move the folder away to continue with what is in S3"
            )
        if found is not None and not here:
            self._state |= {"published": True, "written": [found.sha256]}  # so that a part of it is no fork
            self._save()
        # those that are there may have grown
        missing = [entry for entry in entries if not (self.folder / entry.name).exists()]
        shared = found.constants if found is not None else None
        if shared is not None and not (self.folder / shared.name).exists():
            missing.append(shared)
        self._store.fill(self._cache, self.folder, missing)
        if found is not None:
            self._describe_here(found, mode)

    def _describe_here(self, found: RemoteDescription, mode: Mode) -> None:
        """Let the folder's description name what S3 has of the mode, unless it knows better."""
        here = Description.read(self.folder)
        if mode in found.modes and mode not in here.modes:
            local = found.local({mode: found.entries(mode)})
            known = here.constants or local.constants
            Description(here.modes | local.modes, known, metadata=local.metadata).write(self.folder)

    def begin(self) -> None:
        """Claim the place, so that other writers are noticed, and upload from now on.

        Raises:
            StorageError: The server refuses or is away, or another writer was faster.
        """
        self._state["published"] = False
        known = self._described
        self._replace(known.modes if known else {}, known.data.get("constants") if known else None, final=False)
        self._thread = threading.Thread(target=self._keep_up, name=f"upload to {self.location}", daemon=True)
        self._thread.start()

    # --- while it is written

    def wake(self) -> None:
        """Look whether there is something to upload."""
        self._wake.set()

    def check(self) -> None:
        """Raise StorageError if uploading has ended for a reason that does not pass by waiting."""
        if self._fault is not None:
            raise self._fault

    def _keep_up(self) -> None:
        copied, failed = time.monotonic(), False
        while self._fault is None and not self._store.stop.is_set():
            self._wake.wait(PAUSE if failed else max(self._interval, LEAST))
            self._wake.clear()
            final = self._closing.is_set()
            open_too = final or time.monotonic() - copied >= self._interval
            try:
                self._publish(open_too=open_too, final=final)
            except Stopped:
                return
            except Exception as error:  # noqa: BLE001  # whatever it is, the writer hears of it
                if final or not isinstance(error, Unreachable):
                    self._fail(error)
                    return
                log.log(logging.INFO if failed else logging.WARNING, "%s; the samples stay in %s", error, self.folder)
                failed = True
                continue
            failed = False
            copied = time.monotonic() if open_too else copied
            if final:
                return

    def _fail(self, error: Exception) -> None:
        text = str(error) if isinstance(error, DatasetError) else f"cannot upload to {self.location}: {error!r}"
        form = (
            "another writer has taken over {place}. The samples of this one are in {folder}"
            if isinstance(error, ChangedObject)
            else (
                "{error}. Nothing is lost: all samples are in {folder}; resume=True (physgym generate --resume) "
                "uploads the rest"
            )
        )
        self._fault = StorageError(form.format(error=text.rstrip("."), folder=self.folder, place=self.location))
        self._fault.__cause__ = error

    # --- uploading

    def _publish(self, *, open_too: bool, final: bool) -> None:
        """Upload what S3 does not have, then the description, then delete what it names no longer."""
        assert self._described is not None
        modes, here = self._described.modes, Description.read(self.folder)
        for mode in get_args(Mode):
            earlier = modes.get(mode, {}).get("partitions", [])
            known = {part["file"]: part for part in earlier}
            partitions: list[Partition] = []
            entries: list[dict[str, Any]] = []
            for file in partition_files(self.folder, mode):
                part = self._partition(file)
                if not part.sealed and open_too and not part.empty:
                    part = self._copy(part)
                if part.sealed:
                    entry = self._upload(part, known.get(file.name))
                elif file.name in known:
                    entry = known[file.name]
                else:
                    break  # what comes after it is of no use without it
                partitions.append(part)
                entries.append(entry)
            if partitions:
                described = describe_partitions(partitions, here.provenance(mode))
                samples = sum(entry["samples"] for entry in entries)
                modes[mode] = {**described, "samples": samples, "partitions": entries}
        shared = self._upload_constants(here)
        if final or modes != self._described.modes or shared != self._described.data.get("constants"):
            self._replace(modes, shared, final=final)
            self._delete_superseded()

    def _upload_constants(self, here: Description) -> Any:
        """Upload the values that are stored once, unless that is done; what the description says of them."""
        assert self._described is not None
        known = self._described.data.get("constants")
        entry = here.constants
        if not isinstance(entry, dict) or (isinstance(known, dict) and known.get("sha256") == entry["sha256"]):
            return known if entry is None or isinstance(known, dict) else entry
        file = self.folder / constants.CONSTANTS
        digest, size = _sha256(file), file.stat().st_size
        name = f"constants-{self._state['token']}-{digest[:16]}.npz"
        self._state.setdefault("objects", []).append(name)
        self._save()
        if self._store.size(name) != size:
            self._store.upload(file, name, lambda upload: self._save(parts=[*self._begun_uploads, (name, upload)]))
        self._give_up_uploads()
        return {**entry, "object": name, "size": size, "digest": digest}

    def _partition(self, file: Path) -> Partition:
        """Return a partition of the folder, not opened again if it was uploaded and is the same."""
        if file.name in self._uploaded and (part := self._uploaded[file.name][0]).path == file and part.current:
            return part
        return Partition(file)

    def _copy(self, part: Partition) -> Partition:
        """Make a sealed copy of the committed samples of an open partition."""
        self._copies.mkdir(exist_ok=True)
        copy = self._copies / part.path.name
        if copy.exists() and (sealed := Partition(copy)).count == part.count and sealed.layout == part.layout:
            return sealed
        return sealed_copy(part, copy)

    def _upload(self, part: Partition, known: dict[str, Any] | None) -> dict[str, Any]:
        """Upload a sealed partition unless that is done; how the description names it."""
        file = part.path.name
        if file in self._uploaded and self._uploaded[file][0] is part:
            return self._uploaded[file][1]
        if known is not None and known["sha256"] == part.checksum and known["samples"] == part.count:
            self._uploaded[file] = part, known
            return known
        digest = self._hashed[file] = _sha256(part.path)
        size, name = part.path.stat().st_size, f"{part.path.stem}-{self._state['token']}-{digest[:16]}.h5"
        self._state.setdefault("objects", []).append(name)
        self._save()
        if self._store.size(name) != size:
            self._store.upload(part.path, name, lambda upload: self._save(parts=[*self._begun_uploads, (name, upload)]))
        (entry,) = describe_partitions([part])["partitions"]
        entry |= {"object": name, "size": size, "digest": digest}
        self._uploaded[file] = part, entry
        self._give_up_uploads()
        return dict(entry)

    @property
    def _begun_uploads(self) -> list[Any]:
        """Return uploads in parts that were begun, by this process or a killed one."""
        return list(self._state.get("parts", []))

    def _give_up_uploads(self) -> None:
        """Give up uploads that broke off; those that were completed are no longer known, which does no harm."""
        if self._begun_uploads:
            self._save(parts=[begun for begun in self._begun_uploads if not self._store.abort(*begun)])

    def _replace(self, modes: dict[str, Any], shared: Any, *, final: bool) -> None:
        """Replace the description, on condition that it is ours."""
        said = {} if self._described is None else self._described.metadata
        data = Description(modes, shared, metadata=said or Description.read(self.folder).metadata).content
        if not final:
            data["writer"] = self._state["token"]
        text = as_text(data).encode()
        sha256, before = hashlib.sha256(text).hexdigest(), self._described
        self._state["written"] = [sha256, *([] if before is None else [before.sha256])]
        self._save()  # first, so that it is known to be ours if this process dies after the next line
        tag = self._store.replace(DESCRIPTION, text, None if before is None else before.tag)
        self._described = RemoteDescription(data, sha256, tag)
        old = [] if before is None else before.sources
        self._save(written=[sha256], objects=list(dict.fromkeys([*self._state.get("objects", []), *old])))

    def _delete_superseded(self) -> None:
        """Delete what the description named before, or what this writer has uploaded before it was killed."""
        assert self._described is not None
        named = set(self._described.sources)
        self._store.delete([name for name in self._state["objects"] if name not in named])
        self._save(objects=[name for name in self._state["objects"] if name in named])

    def _save(self, **changed: Any) -> None:
        self._state |= changed
        write_atomically(state_file(self.folder), json.dumps(self._state), durable=False)

    # --- closing

    def finish(self) -> None:
        """Upload all that there is and give up the claim.

        Raises:
            StorageError: That was not possible; the text says where the samples are.
            KeyboardInterrupt: Ctrl-C; the same holds.
        """
        if self._thread is None:
            return
        self._closing.set()
        self._wake.set()
        try:
            self._thread.join(SOON)
            if self._thread.is_alive():
                log.warning("uploading the rest to %s; Ctrl-C ends that, and resume continues with it", self.location)
            while self._thread.is_alive():  # which gives up when the server is away for too long
                self._thread.join(0.2)
        except BaseException:
            self.stop()
            log.warning(
                "not all was uploaded to %s; the samples are in %s, resume uploads them", self.location, self.folder
            )
            raise
        self._thread = None
        if self._fault is not None:
            log.warning("%s", self._fault)
            raise self._fault
        assert self._described is not None
        if not self._described.modes:  # a dataset without samples leaves nothing behind
            self._store.delete([DESCRIPTION])
        for mode in self._described.modes:
            for entry in self._described.entries(mode):
                self._adopt(self.folder / entry.name, entry.sha256)
        if self._described.modes and (shared := self._described.constants) is not None:
            self._adopt(self.folder / shared.name, shared.sha256)
        shutil.rmtree(self._copies, ignore_errors=True)
        self._save(published=True)

    def _adopt(self, file: Path, sha256: str) -> None:
        """Leave a file to the cache, if it is what S3 has."""
        if not file.exists() or file.is_symlink():
            return
        uploaded = self._uploaded.get(file.name)
        # what was uploaded may have been a sealed copy of this file, which is open still
        itself = uploaded is not None and uploaded[0].path == file
        if ((itself and self._hashed.get(file.name)) or _sha256(file)) == sha256:
            self._cache.adopt(file, sha256)

    def stop(self) -> None:
        """End the thread without uploading more; calling it again does no harm."""
        self._store.stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self._store.stops_within)
            self._thread = None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
