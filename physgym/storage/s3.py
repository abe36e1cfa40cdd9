"""`S3Backend`: the requests that physgym makes to S3, each repeated with growing pauses while the server is away."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import queue
import random
import re
import threading
import time
from collections.abc import Callable, Generator, Hashable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from physgym.errors import ConfigError, StorageError
from physgym.files import flush_open
from physgym.storage.backend import (
    Backend,
    ChangedObject,
    DamagedObject,
    MissingObject,
    Stopped,
    Unreachable,
    seconds,
)
from physgym.storage.cache import Entry
from physgym.storage.s3_location import SECRET, S3Location

log = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE_VARIABLE = "PHYSGYM_S3_PATIENCE"
PATIENCE = 60.0  # seconds that a server may be away before it is an error
ATTEMPTS = 3  # at least, however long each takes
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0  # seconds between attempts
CONNECT_TIMEOUT, READ_TIMEOUT, LEAST_TIMEOUT = 10.0, 60.0, 2.0  # seconds
SLOW_REQUESTS = {"complete_multipart_upload": 10}  # in which the server copies everything; times of hanging allowed
SLOWEST_UPLOAD = 8192  # bytes per second
POLL = 0.2  # seconds
SLOWEST = 64  # bytes per second; a server that sends less hangs
FIRST_READ = 64  # bytes that are read at first from a download, until it is seen how fast they come
PART = 16 << 20  # bytes that are uploaded at once; S3 takes parts of 5 MiB to 5 GiB, at most 10,000 of them
LARGEST_READ = 1 << 20  # bytes that are read at once from a download
READ_AHEAD = 2  # such chunks

AGAIN = {  # codes after which S3 wants a request repeated, besides those of status 5xx
    *("RequestTimeout", "RequestTimeoutException", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequests"),
    *("ConditionalRequestConflict", "OperationAborted", "BadDigest", "XAmzContentSHA256Mismatch", "IncompleteBody"),
}
ACCESS = {"AccessDenied", "403", "401", "AllAccessDisabled", "AccountProblem"}
CREDENTIALS = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
    *("ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"),
}


class Dripping(Exception):
    """A server sends so little that it must be taken to hang."""


class S3Backend(Backend):
    """Objects below a place in S3.

    Args:
        location: The place.
        patience: Seconds that the server may be away, or refuse, without any progress; by default those of the
            environment variable PHYSGYM_S3_PATIENCE, else 60.

    Raises:
        ConfigError: boto3 is missing, or its configuration is wrong.
    """

    stops_within = CONNECT_TIMEOUT + READ_TIMEOUT
    location: S3Location

    def __init__(self, location: S3Location, patience: float | None = None) -> None:
        super().__init__(location)
        self.patience = seconds(PATIENCE_VARIABLE, PATIENCE) if patience is None else patience

    @cached_property
    def _client(self) -> Any:
        place = self.location
        settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
        try:
            client = _client(place.endpoint, place.region, place.profile, self._hangs, os.getpid(), settings)
        except ModuleNotFoundError as error:
            raise ConfigError(f"{place} needs boto3, which is not installed: pip install 'physgym[s3]'") from error
        if "@" in client.meta.endpoint_url:
            raise ConfigError(SECRET)
        return client

    @property
    def identity(self) -> str:
        """Return a name of the place that differs between servers."""
        return f"{self._client.meta.endpoint_url} {self.location.bucket} {self.location.prefix}"

    # --- objects

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Read a small object and its entity tag; None if there is none."""

        def get() -> tuple[bytes, str]:
            found = self._call("get_object", **self._address(name))
            data, size = b"".join(self._chunks(found["Body"])), found["ContentLength"]
            if len(data) != size:
                raise KeyError("the rest of it")
            return data, found["ETag"]

        try:
            return self._repeat(f"read {name}", get)
        except MissingObject:
            return None

    def replace(self, name: str, data: bytes, tag: str | None) -> str:
        """Write a small object in place of the one with an entity tag, None for none at all.

        Returns:
            The new tag.

        Raises:
            ChangedObject: Somebody else has written it meanwhile.
        """
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}

        def put() -> str:
            answer: str = self._call("put_object", **self._address(name), Body=data, **condition)["ETag"]
            return answer

        try:
            return self._repeat(f"write {name}", put)
        except (ChangedObject, MissingObject):
            found = self.read(name)  # an attempt whose answer was lost may have written it
            if found is not None and found[0] == data:
                return found[1]
            raise ChangedObject(f"{self.location / name} was written by somebody else meanwhile") from None

    def size(self, name: str) -> int | None:
        """Return the bytes of an object, None if there is none."""
        try:
            found = self._repeat(f"look for {name}", lambda: self._call("head_object", **self._address(name)))
            return int(found["ContentLength"])
        except MissingObject:
            return None

    def upload(self, file: Path, name: str, begun: Callable[[str], None] = lambda upload: None) -> None:
        """Upload a file, large ones in parts.

        Args:
            file: The file; it does not change meanwhile.
            name: Of the object.
            begun: Called with the number of an upload in parts, which `abort` needs if this process dies meanwhile.
        """
        size = file.stat().st_size
        with file.open("rb") as stream:
            if size <= PART:
                data = stream.read()
                self._repeat(f"upload {name}", lambda: self._call("put_object", **self._address(name), Body=data))
            else:
                self._upload_parts(stream, size, name, begun)
        if (stored := self.size(name)) != size:
            raise DamagedObject(f"{self.location / name} holds {stored} bytes after the upload of {size}")

    def _upload_parts(self, stream: Any, size: int, name: str, begun: Callable[[str], None]) -> None:
        named = self._address(name)
        upload: str = self._repeat(f"upload {name}", lambda: self._call("create_multipart_upload", **named))["UploadId"]
        begun(upload)
        parts: list[dict[str, Any]] = []
        try:
            for _ in range(0, size, part_size := max(PART, -(-size // 10_000))):
                data, number = stream.read(part_size), len(parts) + 1
                part = {**named, "UploadId": upload, "PartNumber": number, "Body": data}
                answer = self._repeat(f"upload {name}", functools.partial(self._call, "upload_part", **part))
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            whole = {**named, "UploadId": upload, "MultipartUpload": {"Parts": parts}}
            with contextlib.suppress(MissingObject):  # completed by an attempt whose answer was lost; its size tells
                self._repeat(f"complete {name}", lambda: self._call("complete_multipart_upload", **whole))
        except BaseException:
            self.abort(name, upload)
            raise

    def abort(self, name: str, upload: str) -> bool:
        """Give up an upload in parts, so that its parts cost nothing; one attempt, whose success is returned."""
        try:
            self._call("abort_multipart_upload", **self._address(name), UploadId=upload)
        except Exception as error:  # noqa: BLE001  # nothing depends on it
            log.debug("an upload of %s was left behind: %s", name, _shown(error))
            return "NoSuchUpload" in str(error)
        return True

    def download(self, entry: Entry, file: Path) -> None:
        """Download an object; what is there already is not fetched again after a failure.

        Args:
            entry: Which one, with its size and checksum.
            file: Exists, and is overwritten.

        Raises:
            MissingObject: There is none.
            DamagedObject: It does not hold what it should, twice.
        """
        where = self.location / entry.source
        if self._download(entry, file) == entry.sha256:
            return
        log.warning("the checksum of %s is wrong after the download; it is fetched again", where)
        if self._download(entry, file) != entry.sha256:
            raise DamagedObject(f"{where} is damaged: its checksum is wrong. Restore it, or generate the dataset again")

    def _download(self, entry: Entry, file: Path) -> str:
        """Download an object without looking into it; return the checksum of that."""
        digest, done = hashlib.sha256(), 0

        def get() -> None:
            nonlocal done
            rest = {"Range": f"bytes={done}-"} if done else {}
            found = self._call("get_object", **self._address(entry.source), **rest)
            if (size := done + found["ContentLength"]) != entry.size:
                found["Body"].close()
                where = self.location / entry.source
                raise DamagedObject(f"{where} is damaged: it has {size} bytes instead of {entry.size}")
            with contextlib.closing(self._chunks(found["Body"])) as chunks:
                for chunk in chunks:
                    target.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)

        with file.open("r+b") as target:
            while done < entry.size:
                self._repeat(f"download {entry.source}", get, lambda: done)
            target.flush()
            flush_open(target.fileno(), file)
        return digest.hexdigest()

    def delete(self, names: list[str]) -> None:
        """Delete objects; those that are not there do no harm."""
        for name in names:
            self._repeat(f"delete {name}", functools.partial(self._call, "delete_object", **self._address(name)))

    def folders(self) -> list[str]:
        """List the names of the places below that hold objects, up to the next slash."""
        prefix = self.location.key("")

        def pages() -> list[str]:
            found: list[str] = []
            more: dict[str, str] = {}
            while True:
                where = {"Bucket": self.location.bucket, "Prefix": prefix, "Delimiter": "/"}
                page = self._call("list_objects_v2", **where, **more)
                found += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
                if not page.get("IsTruncated"):
                    return found
                more = {"ContinuationToken": page["NextContinuationToken"]}

        return [name.removeprefix(prefix).rstrip("/") for name in self._repeat(f"list {self.location}", pages)]

    def _address(self, name: str) -> dict[str, str]:
        return {"Bucket": self.location.bucket, "Key": self.location.key(name)}

    @property
    def _hangs(self) -> float:
        """Return seconds without a byte after which a server is taken to hang."""
        return min(READ_TIMEOUT, max(LEAST_TIMEOUT, self.patience / ATTEMPTS))

    def _call(self, request: str, **arguments: Any) -> Any:
        """Make one request; the body of an answer is for the caller to read.

        It is made in a thread, which is left to itself where the answer does not come in time: boto's own timeout is
        for each byte of it, so that a server that sends one now and then would be waited for without end.

        Raises:
            Dripping: There is no answer yet.
            Stopped: The store was asked to stop meanwhile.
            Exception: What boto raises.
        """
        call, answer = getattr(self._client, request), queue.SimpleQueue[tuple[Any, Exception | None]]()

        def run() -> None:
            try:
                answer.put((call(**arguments), None))
            except Exception as error:  # noqa: BLE001  # raised below
                answer.put((None, error))

        wait = SLOW_REQUESTS.get(request, 2) * self._hangs + len(arguments.get("Body", b"")) / SLOWEST_UPLOAD
        deadline = time.monotonic() + wait
        threading.Thread(target=run, name=f"S3 {request}", daemon=True).start()
        while True:
            try:
                found, error = answer.get(timeout=POLL)
                break
            except queue.Empty:
                self._check_stop()
                if time.monotonic() > deadline:
                    raise Dripping(f"no whole answer in {wait:.0f} s") from None
        if error is not None:
            raise error
        return found

    def _chunks(self, body: Any) -> Generator[bytes]:
        """Give the bytes of an answer, as many at a time as come in about a second; the answer is closed.

        They are read in a thread, as requests are made, and for the same reason.

        Raises:
            Dripping: They come too slowly; those that came last are not given.
            Stopped: The store was asked to stop meanwhile.
            Exception: What boto raises.
        """
        pieces, ends = queue.Queue[tuple[bytes, float, Exception | None]](READ_AHEAD), threading.Event()
        threading.Thread(target=_read, args=(body, pieces, ends), name="S3 body", daemon=True).start()
        try:
            deadline = time.monotonic() + self._hangs
            while True:
                try:
                    data, took, error = pieces.get(timeout=POLL)
                except queue.Empty:
                    self._check_stop()
                    if time.monotonic() > deadline:
                        raise Dripping(f"the next bytes did not come in {self._hangs:.0f} s") from None
                    continue
                self._check_stop()
                if error is not None:
                    raise error
                if not data:
                    return
                if took > LEAST_TIMEOUT and len(data) < SLOWEST * took:
                    raise Dripping(f"{len(data)} bytes in {took:.0f} s")
                yield data
                deadline = time.monotonic() + self._hangs
        finally:
            ends.set()

    # --- patience

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise Stopped

    def _repeat(self, action: str, request: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
        """Make a request, again after growing pauses while the server is away; return its answer.

        Args:
            action: What for, for the error.
            request: Makes it.
            progress: Grows as parts of it succeed, whereupon patience starts again.

        Raises:
            StorageError: The server refuses, or is away for too long.
        """
        reached, pauses, begin, attempts = progress(), self._pauses(), time.monotonic(), 0
        while True:
            self._check_stop()
            try:
                return request()
            except (StorageError, ConfigError, Stopped):
                raise
            except Exception as error:
                if _of_disk(error):
                    raise
                problem = self._transient(action, error)
            if (now := progress()) > reached:
                reached, pauses, begin, attempts = now, self._pauses(), time.monotonic(), 0
            attempts += 1
            pause = next(pauses)
            waited = time.monotonic() - begin
            if waited + pause > self.patience and attempts >= ATTEMPTS:
                raise Unreachable(
                    f"cannot {action} at {self.location}: {problem}, for {waited:.0f} s. Look whether the server can "
                    f"be reached, then continue; {PATIENCE_VARIABLE} sets how many seconds it may be away"
                ) from None
            level = logging.WARNING if attempts == 1 else logging.INFO
            log.log(level, "cannot %s at %s: %s; once more in %.1f s", action, self.location, problem, pause)
            self.stop.wait(pause)

    @staticmethod
    def _pauses() -> Iterator[float]:
        pause = FIRST_PAUSE
        while True:
            yield pause * random.uniform(0.5, 1.0)  # so that many clients do not come back all at once
            pause = min(2 * pause, LONGEST_PAUSE)

    def _transient(self, action: str, error: Exception) -> str:
        """Return what is wrong for the time being; raise what will stay wrong, as an error that says what to do."""
        from botocore import exceptions as b

        problem = f"{type(error).__name__}: {_shown(error)}"
        temporary = (b.ConnectionError, b.HTTPClientError, b.ResponseStreamingError, b.IncompleteReadError)
        if isinstance(error, (b.NoCredentialsError, b.PartialCredentialsError, b.TokenRetrievalError)):
            raise StorageError(
                f"cannot {action} at {self.location}: there are no credentials ({problem}). {WHERE}"
            ) from None
        if isinstance(error, RecursionError):
            raise StorageError(
                f"cannot {action} at {self.location}: the server sends the request from one address to another without "
                "end; correct the endpoint or the region"
            ) from None
        if isinstance(error, Dripping | TimeoutError | ConnectionError):
            return problem
        if isinstance(error, KeyError):
            return f"the answer broke off, it lacks {error}"
        lasting = isinstance(error, b.SSLError) and "CERTIFICATE" in str(error).upper()
        if lasting or not isinstance(error, (b.ClientError, *temporary)):
            raise StorageError(f"cannot {action} at {self.location}: {problem}") from None
        if not isinstance(error, b.ClientError):
            return problem
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in AGAIN or status in (429, 500, 502, 503, 504):
            return problem
        where = f"cannot {action} at {self.location}"
        if code == "NoSuchBucket":
            raise StorageError(
                f"{where}: there is no bucket {self.location.bucket!r}. Create it, or correct the name"
            ) from None
        if code in ("PreconditionFailed", "412"):
            raise ChangedObject(f"{where}: somebody else has written it meanwhile") from None
        if status == 404:
            raise MissingObject(f"{where}: it is not there") from None
        if code in ("RequestTimeTooSkewed", "RequestExpired"):
            raise StorageError(
                f"{where}: the clocks of this machine and of the server differ. Set this one right"
            ) from None
        if code in CREDENTIALS:
            raise StorageError(f"{where}: the credentials are refused ({code}). {WHERE}") from None
        if code in ACCESS or status in (401, 403):
            raise StorageError(
                f"{where}: access is denied. The credentials need the right to read, write, list and delete there"
            ) from None
        if status == 501:
            raise StorageError(
                f"{where}: the server does not know conditional writes, which separate two writers ({code})"
            ) from None
        raise StorageError(f"{where}: {problem}") from None


def _read(body: Any, pieces: queue.Queue[tuple[bytes, float, Exception | None]], ends: threading.Event) -> None:
    """Read the bytes of an answer into a queue, and close it; after the last ones come none, or an error."""
    size, last = FIRST_READ, False
    with contextlib.closing(body):
        while not last and not ends.is_set():
            begin, error, data = time.monotonic(), None, b""
            try:
                data = body.read(size)
            except Exception as raised:  # noqa: BLE001  # raised by who takes it out
                error = raised
            took = time.monotonic() - begin
            last = error is not None or not data
            size = min(2 * size, LARGEST_READ) if took < 1 else max(size // 2, FIRST_READ)
            while not ends.is_set():
                with contextlib.suppress(queue.Full):
                    pieces.put((data, took, error), timeout=POLL)
                    break


def _of_disk(error: Exception) -> bool:
    """Return whether the disk of this machine refuses; some of boto's errors about the network are OSErrors too."""
    from botocore.exceptions import BotoCoreError

    network = (BotoCoreError, TimeoutError, ConnectionError)
    return isinstance(error, OSError) and not isinstance(error, network)


@functools.lru_cache(maxsize=8)
def _client(
    endpoint: str | None, region: str | None, profile: str | None, hangs: float, pid: int, settings: Hashable
) -> Any:
    """Return a client of boto3, which takes a while to make; of its own for each process and environment."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=min(CONNECT_TIMEOUT, hangs),
        read_timeout=hangs,
        # repeated here, where downloads can go on, conditional requests are looked at, and all of it can be stopped
        retries={"total_max_attempts": 1},
        response_checksum_validation="when_required",  # compared with the SHA-256 instead
    )
    try:
        session = boto3.session.Session(profile_name=profile, region_name=region)
        return session.client("s3", endpoint_url=endpoint, config=config)
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"S3 cannot be used: {type(error).__name__}: {_shown(error)}") from None


WHERE = (
    "They come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile (AWS_PROFILE, or ?profile=), or the role of "
    "the machine"
)


def _shown(error: BaseException) -> str:
    """Return what an error says, without user names and passwords in addresses."""
    return re.sub(r"(?<=://)[^/@\s]*@", "***@", str(error)).removesuffix(".")
