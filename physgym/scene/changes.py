"""Snapshots of scenes as plain data, and frames: what changed from one to the next.

A snapshot is all that a viewer draws: a title, the camera, and by name the objects with their arrays and settings; of a
scene that takes inputs of a person these too. A frame holds what differs alone, so that the topology of a mesh is sent
once. Arrays that did not change stay the same objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

from physgym.errors import SceneError

SceneSnapshot: TypeAlias = dict[str, Any]
SceneFrame: TypeAlias = dict[str, Any]

SINGLE = ("title", "camera", "inputs")  # entries of a snapshot that are replaced as a whole, where it has them
_ABSENT = object()


def same(one: Any, other: Any) -> bool:
    """Return whether two entries of an object are equal, arrays bit by bit."""
    if one is other:
        return True
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return one.size == 0 or one.view(np.uint8).data == other.view(np.uint8).data
    return type(one) is type(other) and not isinstance(one, np.ndarray) and bool(one == other)


def difference(before: SceneSnapshot | None, now: SceneSnapshot) -> SceneFrame:
    """Return what changed between two snapshots.

    Args:
        before: The earlier one; None for everything.
        now: The later one.

    Returns:
        ``full``: whether it is everything; ``title``, ``camera`` and ``inputs`` where they differ; ``objects``, by name
        what is new or differs; ``new``, names of those that come whole; ``absent``, by name entries that are gone;
        ``removed``, names of objects that are gone.
    """
    past = {} if before is None else before["objects"]
    frame: SceneFrame = {"full": before is None, "objects": {}, "new": [], "absent": {}, "removed": []}
    for name in SINGLE:
        if name in now if before is None else before.get(name) != now.get(name):
            frame[name] = now.get(name, {})
    frame["removed"] = [name for name in past if name not in now["objects"]]
    for name, item in now["objects"].items():
        known = past.get(name)
        if known is None or known["kind"] != item["kind"]:
            frame["objects"][name] = dict(item)
            frame["new"].append(name)
            continue
        changed = {
            key: value
            for key, value in item.items()
            if (was := known.get(key, _ABSENT)) is not value and not same(was, value)
        }
        if changed:
            frame["objects"][name] = changed
        if gone := [key for key in known if key not in item]:
            frame["absent"][name] = gone
    return frame


def is_empty(frame: SceneFrame) -> bool:
    """Return whether nothing changed."""
    return not (frame["full"] or frame["objects"] or frame["absent"] or frame["removed"] or set(SINGLE) & frame.keys())


def apply(before: SceneSnapshot | None, frame: SceneFrame) -> SceneSnapshot:
    """Return the snapshot after a frame; the one before it stays as it is.

    Raises:
        SceneError: The frame does not follow that snapshot.
    """
    if frame["full"]:
        before = {"title": "", "camera": {}, "objects": {}}
    elif before is None:
        raise SceneError("a frame says what changed in a scene of which nothing is known; ask for a whole one first")
    found = {**before, **{name: frame[name] for name in SINGLE if name in frame}}
    objects = {name: item for name, item in before["objects"].items() if name not in frame["removed"]}
    for name in {**frame["objects"], **frame["absent"]}:
        whole = name in frame["new"]
        if not whole and name not in objects:
            raise SceneError(f"a frame changes the object {name!r}, which the scene does not have")
        gone = frame["absent"].get(name, ())
        kept: Mapping[str, Any] = {} if whole else {key: v for key, v in objects[name].items() if key not in gone}
        objects[name] = {**kept, **frame["objects"].get(name, {})}
    found["objects"] = objects
    return found


def merge(first: SceneFrame, second: SceneFrame) -> SceneFrame:
    """Return the one frame that does what two do, one after the other."""
    if second["full"]:
        return second
    objects = {name: dict(item) for name, item in first["objects"].items() if name not in second["removed"]}
    absent = {name: set(keys) for name, keys in first["absent"].items() if name not in second["removed"]}
    new = [name for name in first["new"] if name not in second["removed"]]
    removed = {*first["removed"], *second["removed"]}
    for name in {**second["objects"], **second["absent"]}:
        item, gone = second["objects"].get(name, {}), second["absent"].get(name, ())
        if name in second["new"]:
            objects[name], new = dict(item), [*dict.fromkeys([*new, name])]
            absent.pop(name, None)
            continue
        kept = {key: value for key, value in objects.get(name, {}).items() if key not in gone}
        objects[name] = {**kept, **item}
        if name not in new:
            absent[name] = (absent.get(name, set()) | set(gone)) - item.keys()
    merged: SceneFrame = {
        "full": first["full"],
        "objects": {name: item for name, item in objects.items() if item or name in new},
        "new": new,
        "absent": {name: sorted(keys) for name, keys in absent.items() if keys},
        "removed": sorted(removed),
    }
    return merged | {name: one[name] for one in (first, second) for name in SINGLE if name in one}
