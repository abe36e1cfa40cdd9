"""Datasets and networks in a storage: what takes a path takes ``s3://bucket/prefix`` as well; docs/howto/storage.md."""

from __future__ import annotations

from physgym.storage.location import Location as Location
from physgym.storage.location import place as place
