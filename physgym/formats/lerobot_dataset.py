"""Datasets of LeRobot: `export_lerobot` writes one in the layout of its version 3.0, from which policies are trained.

The layout is described in https://huggingface.co/docs/lerobot/lerobot-dataset-v3: tables of Parquet with a row per
frame, one with a row per episode, and JSON files about both.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.dataset_parts import METADATA as SPLIT
from physgym.data.side_arrays import common_metadata, described
from physgym.data.snapshots import left_snapshots
from physgym.errors import ConfigError, DatasetError
from physgym.files import absolute, creating, short
from physgym.formats.columns import CHUNK_BYTES, checksum
from physgym.formats.parquet_table import arrow_type, as_arrow, from_arrow
from physgym.formats.registry import ExportFormat, ExportOptions
from physgym.progress import Progress
from physgym.sample import Field
from physgym.spaces import Array

VERSION = "v3.0"
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
PER_CHUNK, FILE_MEGABYTES = 1000, 100  # files of a folder, and the size of one
# what LeRobot calls the fields of `physgym.RecordTransition`
NAMES = {
    "observation": "observation.state",
    "reward": "next.reward",
    "terminated": "next.done",
    "truncated": "next.truncated",
    "next_observation": "next.observation.state",
}
# columns of each frame that LeRobot wants
FRAME: dict[str, np.dtype[Any]] = {
    "timestamp": np.dtype("f4"),
    "frame_index": np.dtype("i8"),
    "episode_index": np.dtype("i8"),
    "index": np.dtype("i8"),
    "task_index": np.dtype("i8"),
}


def export_lerobot(
    dataset: SampleDataset, out: str | Path, *, fields: Mapping[str, str] | None = None, progress: bool = False
) -> list[str]:
    """Write the episodes of a dataset as a dataset of LeRobot, and compare what is there with the samples.

    The frames of an episode are steps that follow one another; where some are missing (they were rejected), a new one
    begins. There are no videos: images are arrays.

    Args:
        dataset: The samples.
        out: The new folder.
        fields: LeRobot's name of a feature, such as "observation.state" or "action", to the field that it is. Other
            fields have their own names, with "." for "/", those of `physgym.RecordTransition` the usual ones.
        progress: Whether to show how far it is.

    Returns:
        Remarks on what differs from the dataset, and what is left out.

    Raises:
        ConfigError: LeRobot has no such dtype, or two features have one name.
        DatasetError: `out` exists, the disk refuses, or the files do not hold what was written.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"physgym.formats.lerobot_dataset needs pyarrow: pip install 'physgym[parquet]' ({error})", name=error.name
        ) from error
    out = absolute(out)
    if out.exists():
        raise DatasetError(f"{out} exists; choose another name")
    plan = _Frames.of(dataset, fields or {})
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with (
            creating(out, durable=False) as written,
            Progress(len(dataset), f"export to {short(out)}", "sample", enabled=progress) as bar,
        ):
            _write(written, plan, dataset, bar)
    except (OSError, pyarrow.ArrowException) as error:
        raise DatasetError(f"cannot write {out}: {error}") from error
    return plan.remarks(dataset)


@dataclass(frozen=True)
class _Frames:
    """The frames of a dataset of LeRobot.

    Attributes:
        features: Field of each feature, by LeRobot's name.
        order: Rows of the dataset in the order of the frames.
        bounds: First frame of each episode, and the end of the last one.
        fps: Frames in a second.
        gaps: Whether steps are missing.
    """

    features: Mapping[str, Field]
    order: Array
    bounds: Array
    fps: int
    gaps: bool

    @classmethod
    def of(cls, dataset: SampleDataset, fields: Mapping[str, str]) -> _Frames:
        """Return the frames for a dataset."""
        spec = dataset.spec
        if unknown := sorted(set(fields.values()) - set(spec)):
            raise ConfigError(f"fields names {unknown}; the dataset has {list(spec)}")
        named = {field: name for name, field in fields.items()}
        if len(named) < len(fields):
            raise ConfigError(f"fields gives a field two names: {dict(fields)}")
        features: dict[str, Field] = {}
        for field, one in spec.items():
            name = named.get(field, NAMES.get(field, field.replace("/", ".")))
            if name in FRAME or name in features or "/" in name:
                raise ConfigError(
                    f"feature {name!r} is taken or no name for LeRobot; name {field!r} with fields (--field)"
                )
            if one.dtype.kind not in "biufU" or (one.dtype.itemsize > 8 and one.dtype.kind == "f") or 0 in one.shape:
                raise ConfigError(
                    f"LeRobot has no {one.dtype} of shape {one.shape}, the form of {field!r}; leave it out with "
                    "physgym data drop, or SampleDataset(..., fields=[...])"
                )
            if one.dtype.kind == "U" and one.shape:
                raise ConfigError(
                    f"LeRobot has no arrays of texts, as {field!r} is; leave it out with physgym data drop"
                )
            features[name] = one
        episode, step = dataset.episodes, dataset.index("step")
        order = np.lexsort((step, episode))
        follows = (np.diff(episode[order]) == 0) & (np.diff(step[order]) == 1)
        bounds = np.concatenate([[0], np.flatnonzero(~follows) + 1, [len(order)]])
        gaps = len(bounds) - 1 > len(np.unique(episode)) or bool((step[order[bounds[:-1]]] != 0).any())
        return cls(features, order, bounds, _frames_per_second(dataset) or 1, gaps)

    def remarks(self, dataset: SampleDataset) -> list[str]:
        """Return what differs from the dataset, and what is left out."""
        found = (
            []
            if _frames_per_second(dataset)
            else ["a step is 1 s there: here it is no whole part of a second, or nothing says it"]
        )
        if self.gaps:
            found.append("steps are missing: the rest of such an episode is one of its own, which begins at frame 0")
        if dataset.mode == "training" and (split := common_metadata(dataset).get(SPLIT)):
            found.append(
                f"all episodes are in the part train: the recorded split, {split}, stands in meta/physgym.json"
            )
        side = [("parameters", dataset.parameters), ("rejected samples", dataset.rejected)]
        side += [("how episodes ended", dataset.ended), ("constants", dataset.constants)]
        left_out = ["seeds and numbers of episodes", *(name for name, there in side if there)]
        left_out += left_snapshots(dataset.paths, dataset.mode)
        return [*found, f"left out: {', '.join(left_out)}"]

    def portions(self, dataset: SampleDataset) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yield the columns of some frames of one episode at a time, and the episode."""
        names = [one.name for one in self.features.values()]
        at_once = max(1, CHUNK_BYTES // max(1, dataset.spec.nbytes))
        for episode, (first, end) in enumerate(zip(self.bounds, self.bounds[1:], strict=False)):
            for start in range(first, end, at_once):
                index = np.arange(start, min(end, start + at_once))
                values = dataset.gather(self.order[index], names)
                frame = index - first
                columns = {name: values[one.name] for name, one in self.features.items()}
                columns |= {"timestamp": (frame / self.fps).astype("f4"), "frame_index": frame, "index": index}
                columns |= {"episode_index": np.full(len(index), episode), "task_index": np.zeros(len(index), np.int64)}
                yield episode, columns

    def forms(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Return shape and dtype of a row of each column; arrays of one value are numbers in LeRobot's tables."""
        found = {name: (() if one.shape == (1,) else one.shape, one.dtype) for name, one in self.features.items()}
        return found | {name: ((), dtype) for name, dtype in FRAME.items()}

    def described(self) -> dict[str, Any]:
        """Return the features as LeRobot's JSON has them."""
        found = {
            name: {
                "dtype": "string" if one.dtype.kind == "U" else one.dtype.name,
                "shape": list(one.shape or (1,)),
                "names": None,
            }
            for name, one in self.features.items()
        }
        return found | {name: {"dtype": dtype.name, "shape": [1], "names": None} for name, dtype in FRAME.items()}


def _frames_per_second(dataset: SampleDataset) -> int | None:
    """Return the steps in a second, None where nothing says it or they are no integer."""
    seconds = dataset.time_step
    if seconds is None or not 0.5 < 1 / seconds < 1e6 or abs(1 / seconds - round(1 / seconds)) > 1e-6 / seconds:
        return None
    return round(1 / seconds)


class _Moments:
    """Smallest and largest value, mean and spread of a feature, by component."""

    def __init__(self) -> None:
        self.count, self._sum, self._squares = 0, 0.0, 0.0
        self._low: Any = np.inf
        self._high: Any = -np.inf
        self._shift: Any = None

    def take(self, values: Array) -> None:
        """Take the values of some frames."""
        exact = values.astype(np.float64)
        if self._shift is None:
            self._shift = exact[0]  # so that squares of differences do not cancel
        self.count += len(exact)
        self._sum = self._sum + (exact - self._shift).sum(0)
        self._squares = self._squares + ((exact - self._shift) ** 2).sum(0)
        self._low, self._high = np.minimum(self._low, exact.min(0)), np.maximum(self._high, exact.max(0))

    def described(self) -> dict[str, Any]:
        """Return them as LeRobot names them, each a list of the feature's shape."""
        mean = self._sum / self.count
        std = np.sqrt(np.maximum(self._squares / self.count - mean**2, 0))
        found = {"min": self._low, "max": self._high, "mean": self._shift + mean, "std": std}
        return {name: np.atleast_1d(value).tolist() for name, value in found.items()} | {"count": [self.count]}


def _write(folder: Path, plan: _Frames, dataset: SampleDataset, bar: Progress) -> None:
    """Write all files, and compare the frames with the dataset."""
    import pyarrow
    from pyarrow import parquet

    forms = plan.forms()
    schema = pyarrow.schema([(name, _type(pyarrow, name, *form)) for name, form in forms.items()])
    sums, files, writer, rows = dict.fromkeys(forms, 0), 0, None, 0
    whole = {name: _Moments() for name in plan.described() if plan.described()[name]["dtype"] != "string"}
    each = [{name: _Moments() for name in whole} for _ in plan.bounds[1:]]
    places: list[int] = []
    size = 0
    try:
        for episode, columns in plan.portions(dataset):
            if len(places) <= episode:  # a new one
                if writer is None or size > FILE_MEGABYTES << 20:
                    if writer is not None:
                        writer.close()
                    place = folder / "data" / FILE.format(**_place(files))
                    place.parent.mkdir(parents=True, exist_ok=True)
                    writer, files, size = parquet.ParquetWriter(place, schema), files + 1, 0
                places.append(files - 1)
            for name, (shape, _) in forms.items():
                columns[name] = columns[name].reshape(-1, *shape)
                sums[name] = checksum(columns[name], sums[name])
            arrays = [_cast(as_arrow(pyarrow, name, columns[name]), schema.field(name).type) for name in forms]
            batch = pyarrow.RecordBatch.from_arrays(arrays, schema=schema)
            assert writer is not None
            writer.write_batch(batch)
            size += batch.nbytes
            rows += len(columns["index"])
            for name in whole:
                whole[name].take(columns[name])
                each[episode][name].take(columns[name])
            bar.update(len(columns["index"]))
    finally:
        if writer is not None:
            writer.close()
    _compare(folder, files, forms, sums)
    (folder / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    source = dataset.source
    task = str(source.get("env") or "unknown")
    _write_episodes(folder, plan, places, task, each)
    _write_tasks(folder, task)
    part = {"training": "train"}.get(dataset.mode, dataset.mode)
    info = {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(places),
        "total_frames": rows,
        "total_tasks": 1,
        "chunks_size": PER_CHUNK,
        "data_files_size_in_mb": FILE_MEGABYTES,
        "video_files_size_in_mb": 200,
        "fps": plan.fps,
        "splits": {part: f"0:{len(places)}"},
        "data_path": f"data/{FILE}",
        "video_path": None,
        "features": plan.described(),
    }
    statistics = {name: one.described() for name, one in whole.items()}
    for name, content in (("info", info), ("stats", statistics), ("physgym", described(dataset))):
        (folder / "meta" / f"{name}.json").write_text(json.dumps(content, indent=4))


def _place(file: int) -> dict[str, int]:
    return {"chunk_index": file // PER_CHUNK, "file_index": file % PER_CHUNK}


def _type(arrow: Any, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return Arrow's type of a column: lists of fixed length for vectors, of any for arrays of more axes."""
    found = arrow_type(arrow, name, shape[:1] if len(shape) == 1 else (), dtype)
    for _ in shape if len(shape) > 1 else ():
        found = arrow.list_(found)
    return found


def _cast(values: Any, wanted: Any) -> Any:
    return values if values.type == wanted else values.cast(wanted)


def _compare(folder: Path, files: int, forms: Mapping[str, Any], sums: Mapping[str, int]) -> None:
    """Raise where the files do not hold the values that were written."""
    from pyarrow import parquet

    found = dict.fromkeys(forms, 0)
    for number in range(files):
        with parquet.ParquetFile(folder / "data" / FILE.format(**_place(number))) as file:
            for batch in file.iter_batches(1 << 12):
                for name, form in forms.items():
                    found[name] = checksum(from_arrow(name, batch.column(name), *form), found[name])
    if wrong := [name for name in forms if found[name] != sums[name]]:
        raise DatasetError(f"the files do not hold the values of {wrong} that were written")


def _write_episodes(folder: Path, plan: _Frames, places: list[int], task: str, each: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    first, end = plan.bounds[:-1], plan.bounds[1:]
    count = len(places)
    columns: dict[str, Any] = {
        "episode_index": np.arange(count),
        "tasks": [[task]] * count,
        "length": end - first,
        "data/chunk_index": [_place(file)["chunk_index"] for file in places],
        "data/file_index": [_place(file)["file_index"] for file in places],
        "dataset_from_index": first,
        "dataset_to_index": end,
        "meta/episodes/chunk_index": np.zeros(count, np.int64),
        "meta/episodes/file_index": np.zeros(count, np.int64),
    }
    said = [{name: one.described() for name, one in moments.items()} for moments in each]
    for name in each[0]:
        for moment in said[0][name]:
            columns[f"stats/{name}/{moment}"] = [one[name][moment] for one in said]
    parquet.write_table(pyarrow.table(columns), folder / "meta" / "episodes" / FILE.format(chunk_index=0, file_index=0))


def _write_tasks(folder: Path, task: str) -> None:
    """Write the table of tasks, whose texts are the index of a DataFrame."""
    import pyarrow
    from pyarrow import parquet

    index = "__index_level_0__"
    kinds = {"task_index": ("task_index", "int64", "int64"), index: (None, "unicode", "object")}
    about = {
        "index_columns": [index],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
            for field, (name, kind, dtype) in kinds.items()
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.0.0",
    }
    table = pyarrow.table({"task_index": [0], index: [task]}).replace_schema_metadata({"pandas": json.dumps(about)})
    parquet.write_table(table, folder / "meta" / "tasks.parquet")


class LeRobot(ExportFormat):
    """Datasets of LeRobot."""

    package, extra = "pyarrow", "parquet"
    uses = ("out", "fields")
    title = "a dataset of LeRobot"

    def write(self, dataset: SampleDataset, options: ExportOptions) -> str:
        """Write a dataset to the folder of the options."""
        if options.out is None:
            raise ConfigError("add --out, the folder to write")
        fields = {name: field for name, field in options.fields.items() if isinstance(field, str)}
        if several := sorted(options.fields.keys() - fields):
            raise ConfigError(f"--field: {several[0]} is given twice; a feature of LeRobot has the values of one field")
        remarks = export_lerobot(dataset, options.out, fields=fields, progress=options.progress)
        return "; ".join([f"written: {options.out}", *remarks])


EXPORT_FORMAT = LeRobot()
