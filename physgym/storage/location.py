"""`Location`: a place in a bucket, written ``s3://bucket/prefix``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from physgym.errors import ConfigError
from physgym.files import absolute

OPTIONS = ("endpoint", "region", "profile")
# pathlib makes one slash of two, and a path may come through it, from a command line for example
SCHEME = re.compile(r"s3:/{1,2}(?!/)")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
ENDPOINT = re.compile(r"(https?):/{1,2}(?!/)([^/@?#\s]+(?:/[^@?#\s]*)?)")

FORM = "a place in S3 is written s3://bucket/prefix, where a prefix has no empty part, '.' or '..'"
SECRET = (
    "an S3 address holds no user name or password: credentials come from the environment (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY), a profile (AWS_PROFILE) or the machine's role"
)


@dataclass(frozen=True)
class Location:
    """A place in S3, or in a server that speaks like it.

    Attributes:
        bucket: The bucket; it must exist.
        prefix: What the names of objects begin with, without slashes at its ends; may be empty.
        endpoint: Address of the server; by default what the environment and the profile say, else that of AWS.
        region: Region; by default likewise.
        profile: Profile of the AWS configuration files; by default that of the environment.
    """

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None

    @classmethod
    def parse(cls, text: str) -> Location:
        """The place that a text names: ``s3://bucket/prefix``, or with options ``s3://bucket/prefix?endpoint=URL``.

        Raises:
            ConfigError: It names none, or holds credentials.
        """
        place, _, query = text.partition("?")
        options = dict(parse_qsl(query, keep_blank_values=True))
        if unknown := sorted(set(options) - set(OPTIONS)):  # not their values, which may be secret
            raise ConfigError(f"an S3 address has the options {', '.join(OPTIONS)}, not {', '.join(unknown)}. {SECRET}")
        if "@" in place or "@" in options.get("endpoint", ""):
            raise ConfigError(SECRET)
        if endpoint := options.get("endpoint"):
            if (found := ENDPOINT.fullmatch(endpoint)) is None:
                raise ConfigError(f"the endpoint {endpoint!r} is no address such as https://host:9000")
            options["endpoint"] = f"{found[1]}://{found[2].rstrip('/')}"
        bucket, _, prefix = SCHEME.sub("", place, count=1).partition("/")
        prefix = prefix.rstrip("/")
        if not BUCKET.fullmatch(bucket) or (prefix and {"", ".", ".."} & set(prefix.split("/"))):
            raise ConfigError(f"{place!r} does not fit: {FORM}")
        return cls(bucket, prefix, **{name: value for name, value in options.items() if value})

    @property
    def name(self) -> str:
        """The last part of the prefix."""
        return self.prefix.rpartition("/")[2]

    def __truediv__(self, name: str) -> Location:
        """The place below."""
        return replace(self, prefix=self.key(name))

    def key(self, name: str) -> str:
        """The key of an object below this place."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        options = {name: getattr(self, name) for name in OPTIONS if getattr(self, name)}
        place = f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"
        return f"{place}?{urlencode(options, safe=':/')}" if options else place


def place(path: str | os.PathLike[str] | Location) -> Path | Location:
    """Return where a path leads: to a place in S3 if it begins with ``s3://``, else to the local disk.

    A local path is absolute from here on, with ``~`` expanded, whatever folder the process goes to later.

    Raises:
        ConfigError: It begins like one in S3 but is none.
    """
    if isinstance(path, Location):
        return path
    text = os.fspath(path)
    return Location.parse(text) if SCHEME.match(text) else absolute(text)


def local(path: str | os.PathLike[str], what: str) -> Path:
    """A path that must be on the local disk.

    Raises:
        ConfigError: It is in S3.
    """
    found = place(path)
    if isinstance(found, Location):
        raise ConfigError(f"{what} must be a local folder, not {found}")
    return found
