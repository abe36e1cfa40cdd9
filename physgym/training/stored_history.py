"""The history of a training as its checkpoints hold it, for those who only look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from physgym.errors import CheckpointError
from physgym.storage.location import Location
from physgym.training.checkpoint_folders import find_checkpoint
from physgym.training.checkpoint_manifests import DAMAGE, INCOMPLETE, STATE, check_files, read_manifest
from physgym.training.history import History
from physgym.training.state_codec import decode


def read_history(path: str | Path | Location, which: str | int = "last") -> tuple[History, dict[str, Any]]:
    """Return the history of a training, and the settings with which it can be continued alone.

    The weights and the state of the optimizer are not read.

    Args:
        path: A checkpoint, a folder of checkpoints, or a session.
        which: Which one of several, as for `find_checkpoint`.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or it holds a network without its training.
    """
    folder = find_checkpoint(path, which)
    manifest = read_manifest(folder)
    if STATE not in manifest["files"]:
        raise CheckpointError(f"{folder} holds a network, but not the training that made it: there are no curves")
    try:
        check_files(folder, {STATE: manifest["files"][STATE]})
        state = json.loads((folder / STATE).read_text())["dict"]
        history, settings = (decode(state[name], {}, name) for name in ("history", "settings"))
        return History([dict(epoch) for epoch in history["epochs"]], skipped=int(history["skipped"])), dict(settings)
    except DAMAGE as error:
        raise CheckpointError(INCOMPLETE.format(path=folder, problem=f"{STATE}: {error}")) from error
