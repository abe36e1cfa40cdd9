"""`S3Location`: a place in a bucket, written ``s3://bucket/prefix``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import ClassVar
from urllib.parse import parse_qsl, urlencode

from physgym.errors import ConfigError
from physgym.storage.location import Location

OPTIONS = ("endpoint", "region", "profile")
SCHEME = re.compile(r"s3:/{1,2}(?!/)")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]")
ENDPOINT = re.compile(r"(https?):/{1,2}(?!/)([^/@?#\s]+(?:/[^@?#\s]*)?)")

SECRET = (
    "an S3 address holds no user name or password: credentials come from the environment (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY), a profile (AWS_PROFILE) or the machine's role"
)


@dataclass(frozen=True)
class S3Location(Location):
    """A place in S3, or in a server that speaks like it.

    Attributes:
        bucket: The bucket; it must exist.
        prefix: What the names of objects begin with, without slashes at its ends; may be empty.
        endpoint: Address of the server; by default what the environment and the profile say, else that of AWS.
        region: Region; the default is found in the same way.
        profile: Profile of the AWS configuration files; by default that of the environment.
    """

    scheme: ClassVar[str] = "s3"

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None

    @classmethod
    def parse(cls, text: str) -> S3Location:
        """Return the place of ``s3://bucket/prefix``, or with options of ``s3://bucket/prefix?endpoint=URL``.

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
            raise ConfigError(
                f"{place!r} does not fit: a place in S3 is written s3://bucket/prefix, where a prefix has no empty "
                "part, '.' or '..'"
            )
        return cls(bucket, prefix, **{name: value for name, value in options.items() if value})

    @property
    def name(self) -> str:
        """Return the last part of the prefix."""
        return self.prefix.rpartition("/")[2]

    def __truediv__(self, name: str) -> S3Location:
        """Return the place below."""
        return replace(self, prefix=self.key(name))

    def key(self, name: str) -> str:
        """Return the key of an object below this place."""
        return f"{self.prefix}/{name}" if self.prefix else name

    def __str__(self) -> str:
        options = {name: getattr(self, name) for name in OPTIONS if getattr(self, name)}
        place = f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"
        return f"{place}?{urlencode(options, safe=':/')}" if options else place
