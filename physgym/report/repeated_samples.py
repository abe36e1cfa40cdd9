"""Samples that occur more than once in a dataset, within a part and in two of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.provenance import overlaps
from physgym.report.drawn_samples import DrawnSamples
from physgym.report.page import Page
from physgym.spaces import Array

LOOKED_AT = 20_000  # samples of a part


def add_repeated(page: Page, parts: Mapping[str, SampleDataset]) -> None:
    """Add which episodes and samples parts have in common, and which samples a part has more than once."""
    page.section("Duplicates")
    looked = {name: DrawnSamples(dataset, LOOKED_AT) for name, dataset in parts.items()}
    digests = {name: sample_digests(drawn) for name, drawn in looked.items()}
    several = len(parts) > 1
    rows = []
    for name, found in digests.items():
        repeated = len(found) - len(np.unique(found))
        others = [f"{int(np.isin(found, digests[other]).sum()):,}" if other != name else "" for other in digests]
        rows.append([name, looked[name].text, f"{repeated:,}", *(others if several else ())])
    whole = all(len(one) == len(one.dataset) for one in looked.values())
    note = "Samples that are equal in all fields, to the bit."
    page.table(
        ["part", "compared", "repeated within", *(f"also in {name}" for name in digests if several)],
        rows,
        note if whole else f"{note} Where samples are drawn, there may be more.",
    )
    said = [
        text
        for (one, first), (other, second) in combinations(parts.items(), 2)
        if (text := overlaps(second, first, (f"the {other} part", f"the {one} part")))
    ]
    for text in said:
        page.remark(f"{text}.")
    if several and not said:
        page.text("No two parts have an episode in common, by simulation, arguments and seeds.")


def sample_digests(drawn: DrawnSamples) -> Array:
    """Return a digest of each sample over all its fields, shape (n,)."""
    fields = drawn.dataset.gather(drawn.rows)
    columns = [np.ascontiguousarray(values).reshape(len(drawn), -1) for values in fields.values()]
    found = []
    for number in range(len(drawn)):
        digest = hashlib.blake2b(digest_size=8)
        for column in columns:
            digest.update(column[number].tobytes())
        found.append(digest.digest())
    return np.frombuffer(b"".join(found), np.uint64)
