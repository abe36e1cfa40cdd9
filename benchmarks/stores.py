"""Other ways to keep samples, each as its users use it: appended in batches that outlive a crash, read at random."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from pathlib import Path

import numpy as np

CHUNK = 1 << 20  # bytes of a chunk, where a format has chunks
EPISODE = 32  # samples, where a format has episodes


def chunk_rows(row: int) -> int:
    return max(1, CHUNK // max(1, row))


class Store:
    """A folder of samples.

    Args:
        folder: An empty folder.
        fields: Names to shapes; all are float32.
    """

    title, module = "", ""

    def __init__(self, folder: Path, fields: dict[str, tuple[int, ...]]) -> None:
        self.folder, self.fields = folder, fields
        self.rows = {name: 4 * int(np.prod(shape)) for name, shape in fields.items()}

    @classmethod
    def installed(cls) -> bool:
        return importlib.util.find_spec(cls.module) is not None

    def create(self) -> None: ...

    def append(self, batch: dict[str, np.ndarray]) -> None:
        """Store samples and commit them."""
        raise NotImplementedError

    def close(self) -> None: ...

    def open(self) -> None: ...

    def gather(self, indices: np.ndarray) -> dict[str, np.ndarray]:
        """Return the samples at the indices, stacked."""
        raise NotImplementedError


class ChunkedH5py(Store):
    """Chunked datasets that grow, flushed after every batch."""

    title, module = "h5py, chunked", "h5py"

    def create(self) -> None:
        import h5py

        self.file = h5py.File(self.folder / "data.h5", "w", libver=("earliest", "v110"))
        for name, shape in self.fields.items():
            chunks = (chunk_rows(self.rows[name]), *shape)
            self.file.create_dataset(name, (0, *shape), "f4", maxshape=(None, *shape), chunks=chunks)

    def append(self, batch) -> None:
        for name, value in batch.items():
            data = self.file[name]
            count = len(data)
            data.resize(count + len(value), axis=0)
            data[count:] = value
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def open(self) -> None:
        import h5py

        self.file = h5py.File(self.folder / "data.h5")

    def gather(self, indices):
        ascending, back = np.unique(indices, return_inverse=True)  # h5py takes ascending indices alone
        return {name: self.file[name][ascending][back] for name in self.fields}


class Zarr(Store):
    """A folder of chunks."""

    title, module = "zarr", "zarr"

    def create(self) -> None:
        import zarr

        self.group = zarr.open_group(str(self.folder / "data.zarr"), mode="w")
        for name, shape in self.fields.items():
            chunks = (chunk_rows(self.rows[name]), *shape)
            self.group.create_array(name, shape=(0, *shape), chunks=chunks, dtype="f4", compressors=None)
        self.arrays = {name: self.group[name] for name in self.fields}

    def append(self, batch) -> None:
        for name, value in batch.items():
            self.arrays[name].append(value)

    def open(self) -> None:
        import zarr

        group = zarr.open_group(str(self.folder / "data.zarr"), mode="r")
        self.arrays = {name: group[name] for name in self.fields}

    def gather(self, indices):
        return {name: array.oindex[indices] for name, array in self.arrays.items()}


class Sqlite(Store):
    """A row per sample, as DeepPhysX keeps them; write-ahead log."""

    title, module = "sqlite, row each", "sqlite3"

    def create(self) -> None:
        self.base = sqlite3.connect(self.folder / "data.db")
        self.base.execute("PRAGMA journal_mode=WAL")
        self.base.execute("PRAGMA synchronous=NORMAL")
        columns = ", ".join(f"{name} BLOB" for name in self.fields)
        self.base.execute(f"CREATE TABLE samples (id INTEGER PRIMARY KEY, {columns})")
        self.insert = f"INSERT INTO samples ({', '.join(self.fields)}) VALUES ({', '.join('?' * len(self.fields))})"

    def append(self, batch) -> None:
        columns = [[row.tobytes() for row in batch[name]] for name in self.fields]
        self.base.executemany(self.insert, zip(*columns, strict=True))
        self.base.commit()

    def close(self) -> None:
        self.base.close()

    def open(self) -> None:
        self.base = sqlite3.connect(self.folder / "data.db")

    def gather(self, indices):
        query = f"SELECT {', '.join(self.fields)} FROM samples WHERE id = ?"
        rows = [self.base.execute(query, (i + 1,)).fetchone() for i in indices.tolist()]
        return {
            name: np.stack([np.frombuffer(row[k], "f4").reshape(shape) for row in rows])
            for k, (name, shape) in enumerate(self.fields.items())
        }


class Lmdb(Store):
    """A key per sample; not synchronized."""

    title, module = "lmdb", "lmdb"

    def create(self) -> None:
        self.open()
        self.count = 0

    def append(self, batch) -> None:
        columns = [value.reshape(len(value), -1) for value in batch.values()]
        with self.base.begin(write=True) as transaction:
            for row in zip(*columns, strict=True):
                transaction.put(self.count.to_bytes(8, "big"), b"".join(part.tobytes() for part in row), append=True)
                self.count += 1

    def close(self) -> None:
        self.base.close()

    def open(self) -> None:
        import lmdb

        self.base = lmdb.open(str(self.folder / "data.lmdb"), map_size=1 << 36, sync=False)

    def gather(self, indices):
        with self.base.begin(buffers=True) as transaction:
            rows = np.stack([np.frombuffer(transaction.get(i.to_bytes(8, "big")), "f4") for i in indices.tolist()])
        bounds = np.cumsum([row // 4 for row in self.rows.values()])[:-1]
        parts = np.split(rows, bounds, axis=1)
        return {name: part.reshape(-1, *shape) for part, (name, shape) in zip(parts, self.fields.items(), strict=True)}


class Minari(Store):
    """The last field is the action, where there are two; transitions at random need their whole episode."""

    title, module = "Minari", "minari"

    def create(self) -> None:
        import minari
        from gymnasium import spaces

        os.environ["MINARI_DATASETS_PATH"] = str(self.folder)
        self.dataset, self.minari = None, minari
        boxes = [spaces.Box(-np.inf, np.inf, shape, np.float32) for shape in self.fields.values()]
        self.observation, self.action = boxes[0], boxes[1] if len(boxes) > 1 else spaces.Box(-1, 1, (1,), np.float32)

    def append(self, batch) -> None:
        from minari.data_collector import EpisodeBuffer

        first, *others = batch.values()
        count = len(first)
        episode = EpisodeBuffer(
            observations=np.concatenate([first, first[:1]]),
            actions=others[0] if others else np.zeros((count, 1), np.float32),
            rewards=[0.0] * count,
            terminations=[False] * count,
            truncations=[False] * (count - 1) + [True],
        )
        if self.dataset is None:
            self.dataset = self.minari.create_dataset_from_buffers(
                dataset_id="samples-v0",
                buffer=[episode],
                observation_space=self.observation,
                action_space=self.action,
                algorithm_name="none",
                author="none",
                author_email="none",
                code_permalink="none",
                description="none",
            )
        else:
            self.dataset.update_dataset_from_buffer([episode])

    def open(self) -> None:
        import minari

        os.environ["MINARI_DATASETS_PATH"] = str(self.folder)
        self.dataset = minari.load_dataset("samples-v0")

    def gather(self, indices):
        columns: dict[str, list] = {name: [] for name in self.fields}
        for i in indices.tolist():
            episode = next(self.dataset.iterate_episodes([i // EPISODE]))
            for column, values in zip(columns.values(), (episode.observations, episode.actions), strict=False):
                column.append(values[i % EPISODE])
        return {name: np.stack(column) for name, column in columns.items()}


class HuggingFace(Store):
    """Arrow; it is written in one go, so that a crash loses all."""

    title, module = "HF datasets", "datasets"

    def create(self) -> None:
        import datasets
        from datasets.arrow_writer import ArrowWriter

        datasets.disable_progress_bars()

        def feature(shape):
            if len(shape) == 1:
                return datasets.List(datasets.Value("float32"), length=shape[0])
            return {2: datasets.Array2D, 3: datasets.Array3D}[len(shape)](shape=shape, dtype="float32")

        features = datasets.Features({name: feature(shape) for name, shape in self.fields.items()})
        self.writer = ArrowWriter(path=str(self.folder / "data.arrow"), features=features)

    def append(self, batch) -> None:
        self.writer.write_batch({name: list(value) for name, value in batch.items()})

    def close(self) -> None:
        self.writer.finalize()
        self.writer.close()

    def open(self) -> None:
        import datasets

        self.data = datasets.Dataset.from_file(str(self.folder / "data.arrow")).with_format("numpy")

    def gather(self, indices):
        return self.data[indices.tolist()]


STORES = {store.__name__: store for store in (ChunkedH5py, Zarr, Sqlite, Lmdb, Minari, HuggingFace)}
