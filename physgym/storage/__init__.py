"""Datasets and networks in S3: whatever takes a path takes ``s3://bucket/prefix`` as well; see docs/storage.md."""

from __future__ import annotations

from physgym.storage.location import Location as Location
from physgym.storage.location import place as place
