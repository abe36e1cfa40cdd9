"""How the code of the pages of docs/reference is run; a page that has no row here is run whole."""

from __future__ import annotations

from tests.guides.guide import Guide

GUIDES = {
    "reference/config": Guide(),
    "reference/format": Guide(),
    "reference/protocol": Guide(sketches={0: "tests of a worker that the reader writes"}),
}
