"""Storing and loading samples: rates, each beside what the machine allows at most in the same minute.

The limits are `os.write` of the same bytes, the gather from arrays in memory, and the sequential read of the same
files. What is compared is measured in turn, in rounds, and medians are printed, with the ratio to the limit in
brackets; a star is a target met, an exclamation mark one missed. For appending it is the best rounds: what the disk and
a shared machine do besides makes single rounds up to ten times slower, never faster. Everything is made below a folder
and removed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is imported

import gymnasium as gym  # noqa: E402
import numpy as np  # noqa: E402
from gymnasium import spaces  # noqa: E402
from isolated import call  # noqa: E402
from stores import EPISODE, STORES, Store  # noqa: E402
from wanted_rows import WantedRow, add_rows_option, write_rows  # noqa: E402

from physgym import SampleDataset  # noqa: E402
from physgym.data.file_image import file_size  # noqa: E402
from physgym.data.layout import PartitionLayout  # noqa: E402
from physgym.data.partition import Partition  # noqa: E402
from physgym.data.partition_file import Appender, create_partition  # noqa: E402
from physgym.data.partition_file import seal as seal_partition  # noqa: E402
from physgym.data.statistics import Accumulator  # noqa: E402
from physgym.data.writer import SampleWriter  # noqa: E402
from physgym.generation.stream import SampleStream  # noqa: E402
from physgym.loading.batching import StackedSampler  # noqa: E402
from physgym.loading.loader import Loader  # noqa: E402
from physgym.sample import Field, SampleSpec  # noqa: E402

MB = 1 << 20
POOL = 64 * MB  # bytes of different samples that are written again and again
BLOCK = 16 * MB  # bytes of a sequential read
PIECE = 1 << 16  # bytes of a write that is cut up
PARTITIONS = 20


@dataclass(frozen=True)
class Size:
    """Samples of a size, and how many a batch has that is read."""

    fields: dict[str, tuple[int, ...]]
    batch: int

    @property
    def spec(self) -> SampleSpec:
        return SampleSpec([Field(name, shape, np.dtype("f4"), "input") for name, shape in self.fields.items()])

    @property
    def row(self) -> int:
        return self.spec.nbytes

    def samples(self, count: int, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {name: rng.random((count, *shape), np.float32) for name, shape in self.fields.items()}

    def pool(self, batch: int) -> list[dict[str, np.ndarray]]:
        """Return batches of samples."""
        count = max(2, min(256, POOL // (batch * self.row)))
        data = self.samples(count * batch)
        return [{name: value[i : i + batch] for name, value in data.items()} for i in range(0, count * batch, batch)]


SIZES = {
    "small": Size({"x": (10,), "y": (10,)}, 256),
    "medium": Size({"x": (3, 64, 64)}, 256),
    "large": Size({"x": (10000, 3)}, 32),
}
TARGETS = {  # least ratio to the limit, or number, per size
    ("append 32", "physgym"): (0.6, 0.7, 0.8),
    ("append 1", "physgym, add"): (0.4, 0.6, 0.8),
    ("shuffle", "gather"): (0.7, 0.7, 0.8),
    ("shuffle", "Loader"): (0.7, 0.7, 0.8),
    ("shuffle", "DataLoader"): (0.03, 0.3, 0.3),
    ("shuffle", "DataLoader, stacked"): (0.15, 0.45, 0.8),
    ("windows", "gather"): (0.6, None, None),
    ("windows", "Loader"): (0.6, None, None),
    ("cold", "block shuffle"): (None, 0.35, 0.35),
}
FLOORS = {("cold", "block shuffle"): (150, None, None), ("generate", "2 workers"): (200_000, None, None)}
CEILINGS = {
    ("partition", "create, ms"): (2, 2, 2),
    ("partition", "open and close, ms"): (2, 2, 2),
    ("partition", "statistics / append"): (0.3, 0.3, 0.3),
}


@dataclass
class Settings:
    """Where to measure, how long, how often, with how many bytes, against whom."""

    folder: Path
    seconds: float
    repeats: int
    bytes: int
    cold_bytes: int
    peers: list[type[Store]]


# --- what is measured


def spent(step: Callable[[], int], seconds: float, most: float = float("inf")) -> tuple[int, float]:
    """Call until the time is over or so much is done; what the calls return, added up, and the seconds."""
    done, start = 0, time.perf_counter()
    while (now := time.perf_counter()) < start + seconds and done < most:
        done += step()
    return done, now - start


@contextlib.contextmanager
def below(folder: Path) -> Iterator[Path]:
    """Give a fresh folder that is removed afterwards."""
    path = Path(tempfile.mkdtemp(dir=folder))
    try:
        yield path
    finally:
        gc.collect()
        shutil.rmtree(path, ignore_errors=True)


def backed(folder: Path, nbytes: int) -> None:
    """Write and remove so many bytes, so that the free memory which a virtual machine next gives away is at hand."""
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(max(1, nbytes // BLOCK)):
            file.write(bytes(BLOCK))


Pool = list[dict[str, np.ndarray]]


def raw_append(pool: list[bytes], size: Size, s: Settings) -> float:
    backed(s.folder, s.bytes)
    with below(s.folder) as folder, (folder / "raw").open("wb", buffering=0) as file:
        handle, parts = file.fileno(), itertools.cycle(pool)
        done, seconds = spent(lambda: os.write(handle, next(parts)), s.seconds, s.bytes)
    return done / size.row / seconds


def our_append(pool: Pool, size: Size, s: Settings, *, commit=False, seal=False, single=False, **options) -> float:
    batch = len(next(iter(pool[0].values())))
    index = {"episode": np.zeros(batch, "i8"), "seed": np.zeros(batch, "u8")}
    steps = np.arange(s.bytes // size.row + 3 * batch)  # names that cost next to nothing to make
    backed(s.folder, s.bytes)
    with below(s.folder) as folder:
        writer = SampleWriter(folder / "d", size.spec, **options)
        parts = itertools.cycle([{k: v[0] for k, v in b.items()} for b in pool] if single else pool)
        numbers = itertools.count()

        def step() -> int:
            if single:
                writer.add(next(parts), episode=0, step=next(numbers), seed=0)
            else:
                begin = batch * next(numbers)
                writer.append(next(parts), step=steps[begin : begin + batch], **index)
            if commit:
                writer.commit()
            return batch

        step()  # makes the first partition, as rare afterwards as the opening of a file
        writer.commit()
        start = time.perf_counter()
        done, _ = spent(step, s.seconds, s.bytes / size.row)
        writer.commit()
        if seal:
            writer.close()
        seconds = time.perf_counter() - start
        writer.close(seal=False)
    return done / seconds


def peer_append(peer: type[Store], pool: Pool, size: Size, s: Settings) -> float:
    batch = len(next(iter(pool[0].values())))
    backed(s.folder, s.bytes)
    with below(s.folder) as folder:
        store, parts = peer(folder, size.fields), itertools.cycle(pool)
        store.create()

        def step() -> int:
            store.append(next(parts))
            return batch

        done, seconds = spent(step, s.seconds, s.bytes / size.row)
        store.close()
    return done / seconds


def appending(size: Size, batch: int, s: Settings) -> dict[str, Callable[[], float]]:
    # little at a time and in more rounds: what the disk has to do at times is not what is measured
    s = replace(s, bytes=s.bytes // 4)
    pool = size.pool(batch)
    raw = [b"".join(value.tobytes() for value in samples.values()) for samples in pool]
    # in whole batches, or in the pieces that page caches like best: whichever is faster in a round is the limit
    pieces = [part[i : i + PIECE] for part in raw for i in range(0, len(part), PIECE)]
    rows: dict[str, Callable[[], float]] = {
        "os.write": lambda: max(raw_append(parts, size, s) for parts in (raw, pieces)),
        "physgym": lambda: our_append(pool, size, s),
        "physgym, commit each": lambda: our_append(pool, size, s, commit=True),
        "physgym, durable": lambda: our_append(pool, size, s, durable=True),
        "physgym, sealed": lambda: our_append(pool, size, s, seal=True),
    }
    if batch == 1:
        rows["physgym, add"] = lambda: our_append(pool, size, s, single=True)
    for peer in s.peers if batch == EPISODE else [p for p in s.peers if p.title not in ("Minari", "HF datasets")]:
        rows[peer.title] = lambda peer=peer: peer_append(peer, pool, size, s)
    return rows


def appended(s: Settings) -> list[WantedRow]:
    """Measure what is wanted of appending: the best rounds, of few bytes, beside those of os.write."""
    size = SIZES["small"]
    wanted = {"physgym": ("append/32 small", 0.6), "physgym, commit each": ("append/32 small, a commit each", 0.4)}
    rows = appending(size, EPISODE, replace(s, peers=[]))
    found = measured({name: rows[name] for name in ("os.write", *wanted)}, 3 * s.repeats)
    best = {name: max(values) for name, values in found.items()}
    beside = {"os.write, samples/s": best["os.write"]}
    return [
        WantedRow(row, best[name] / best["os.write"], least, "of os.write", beside=beside)
        for name, (row, least) in wanted.items()
    ]


def partitions(size: Size, s: Settings) -> dict[str, Callable[[], float]]:
    capacity = max(8, s.bytes // 4 // size.row)
    layout, described = PartitionLayout(size.spec), {"mode": "training", "source": "{}"}

    def made(folder: Path, count: int) -> Partition:
        part = create_partition(folder / "training-00000.h5", layout, capacity, described)
        pool = size.pool(min(capacity, max(1, 4 * MB // size.row)))
        rows = {f"data/{name}": value for name, value in pool[0].items()}
        batch = len(next(iter(rows.values())))
        index = {
            name: np.zeros(batch, dtype) for name, (_, dtype) in layout.tables["samples"].items() if name not in rows
        }
        with Appender(part) as appender:
            for start in range(0, count, batch):
                stop = min(count - start, batch)
                appender.write("samples", {name: value[:stop] for name, value in {**rows, **index}.items()})
            appender.commit()
        return part

    def seal(fraction: float) -> float:
        with below(s.folder) as folder:
            part = made(folder, int(capacity * fraction))
            known = part.statistics  # a writer has them by then
            start = time.perf_counter()
            seal_partition(part, known)
            return part.count * size.row / (time.perf_counter() - start) / MB

    def create() -> float:
        with below(s.folder) as folder:
            times = []
            for i in range(20):
                start = time.perf_counter()
                create_partition(folder / f"training-{i:05d}.h5", layout, capacity, described)
                times.append(time.perf_counter() - start)
            return 1e3 * statistics.median(times)

    def reopen() -> float:
        with below(s.folder) as folder:
            path = made(folder, capacity // 2).path
            times = []
            for _ in range(20):
                start = time.perf_counter()
                part = Partition(path)
                del part
                times.append(time.perf_counter() - start)
            return 1e3 * statistics.median(times)

    def share() -> float:
        data = size.samples(max(1, min(POOL, s.bytes) // size.row))
        accumulators = {name: Accumulator(shape, np.dtype("f4")) for name, shape in size.fields.items()}
        start = time.perf_counter()
        for name, value in data.items():
            accumulators[name].add(value)
        seconds = (time.perf_counter() - start) / len(next(iter(data.values())))
        return seconds * our_append(size.pool(EPISODE), size, s)

    return {
        "seal half full, MB/s": lambda: seal(0.5),
        "seal full, MB/s": lambda: seal(1.0),
        "create, ms": create,
        "open and close, ms": reopen,
        "statistics / append": share,
    }


def written(folder: Path, size: Size, nbytes: int) -> SampleDataset:
    """Write a dataset of about so many bytes in a number of partitions."""
    batch = max(1, min(4096, 4 * MB // size.row))
    pool, count = itertools.cycle(size.pool(batch)), max(2 * PARTITIONS, nbytes // size.row)
    largest = file_size(PartitionLayout(size.spec), -(-count // PARTITIONS), {})
    with SampleWriter(folder, size.spec, max_file_size=largest) as writer:
        for start in range(0, count, batch):
            i = np.arange(start, min(count, start + batch))
            samples = {name: value[: len(i)] for name, value in next(pool).items()}
            writer.append(samples, episode=i // EPISODE, step=i % EPISODE, seed=(i // EPISODE).astype("u8"))
    return SampleDataset(folder)


def shuffling(size: Size, s: Settings, folder: Path) -> dict[str, Callable[[], float]]:
    from torch.utils.data import DataLoader

    dataset = written(folder / "physgym", size, s.bytes)
    assert len(dataset.partitions) >= 16
    arrays, n, batch = dataset.read(0, len(dataset)), len(dataset), min(size.batch, len(dataset))
    rng = np.random.default_rng(1)
    places = itertools.cycle([rng.integers(0, n, batch) for _ in range(max(8, min(4096, n // batch)))])
    outs = {name: np.empty((batch, *shape), "f4") for name, shape in size.fields.items()}
    check = next(places)
    for name, value in dataset.gather(check).items():
        np.testing.assert_array_equal(value, arrays[name][check])

    def take(out=None) -> int:
        i = next(places)
        for name, array in arrays.items():
            target = np.empty((batch, *array.shape[1:]), "f4") if out is None else out[name]
            np.take(array, i, axis=0, out=target, mode="clip")
        return batch

    def gather(out=None) -> int:
        dataset.gather(next(places), out=out)
        return batch

    def through(make: Callable[[], Iterable]) -> float:
        """Return samples per second of a loader, epoch after epoch, from the second batch on."""
        loader = make()
        batches = itertools.chain.from_iterable(loader for _ in itertools.count())
        next(batches)
        done, seconds = spent(lambda: len(next(iter(next(batches).values()))), s.seconds)
        return done / seconds

    def rate(step: Callable[[], int]) -> float:
        spent(step, 0.1 * s.seconds)
        done, seconds = spent(step, s.seconds)
        return done / seconds

    rows = {
        "np.take": lambda: rate(take),
        "gather": lambda: rate(gather),
        "np.take, out=": lambda: rate(lambda: take(outs)),
        "gather, out=": lambda: rate(lambda: gather(outs)),
        "Loader": lambda: through(lambda: Loader(dataset, batch, shuffle="random", drop_last=True)),
        "DataLoader": lambda: through(lambda: DataLoader(dataset, batch, shuffle=True, drop_last=True)),
        "DataLoader, stacked": lambda: through(
            lambda: DataLoader(dataset, batch_size=None, sampler=StackedSampler(dataset, batch, drop_last=True))
        ),
    }
    for peer in s.peers:
        with contextlib.suppress(Exception):  # the section on appending says what is wrong
            rows[peer.title] = peer_gather(peer, size, batch, s, folder)
    return rows


STEPS = 8  # of a window


def windows(size: Size, s: Settings, folder: Path) -> dict[str, Callable[[], float]]:
    """Shuffled windows of consecutive steps, beside rows as large as these from arrays in memory."""
    dataset = written(folder / "physgym", size, s.bytes)
    found = dataset.windows(inputs=STEPS)  # all fields are inputs
    arrays = found[: max(2, s.bytes // found.row_nbytes)]
    count = len(next(iter(arrays.values())))
    batch = min(size.batch, count)
    rng = np.random.default_rng(1)
    some = itertools.cycle([rng.integers(0, count, batch) for _ in range(max(8, min(4096, count // batch)))])
    places = itertools.cycle([rng.integers(0, len(found), batch) for _ in range(max(8, min(4096, count // batch)))])

    def take() -> int:
        i = next(some)
        for array in arrays.values():
            np.take(array, i, axis=0, out=np.empty((batch, *array.shape[1:]), "f4"), mode="clip")
        return batch

    def gather() -> int:
        found.gather(next(places))
        return batch

    def load() -> float:
        loader = Loader(found, batch, shuffle="random", drop_last=True)
        batches = itertools.chain.from_iterable(loader for _ in itertools.count())
        next(batches)
        done, seconds = spent(lambda: len(next(iter(next(batches).values()))), s.seconds)
        return done / seconds

    def rate(step: Callable[[], int]) -> float:
        spent(step, 0.1 * s.seconds)
        done, seconds = spent(step, s.seconds)
        return done / seconds

    return {"np.take": lambda: rate(take), "gather": lambda: rate(gather), "Loader": load}


def peer_gather(peer: type[Store], size: Size, batch: int, s: Settings, folder: Path) -> Callable[[], float]:
    """Write for a few seconds, then gather at random."""
    where = folder / peer.__name__
    where.mkdir()
    store = peer(where, size.fields)
    store.create()
    parts, done = itertools.cycle(size.pool(EPISODE)), 0
    deadline = time.perf_counter() + 4 * s.seconds
    while done < batch or (time.perf_counter() < deadline and done < s.bytes / size.row):
        store.append(next(parts))
        done += EPISODE
    store.close()
    reader = peer(where, size.fields)
    reader.open()
    rng = np.random.default_rng(2)

    def step() -> int:
        reader.gather(rng.integers(0, done, batch))
        return batch

    def rate() -> float:
        count, seconds = spent(step, s.seconds)
        return count / seconds

    return rate


# --- cold


def dropped(folder: Path) -> float:
    """Take the files out of the page cache; the fraction that is still there."""
    there = seen = 0
    for file in folder.rglob("*.h5"):
        handle = os.open(file, os.O_RDWR)
        try:
            os.fdatasync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            for offset in np.linspace(0, os.fstat(handle).st_size - 4096, 9).astype(int).tolist():
                seen += 1
                with contextlib.suppress(BlockingIOError):  # not in the cache
                    there += bool(os.preadv(handle, [bytearray(16)], offset, os.RWF_NOWAIT))
        finally:
            os.close(handle)
    return there / max(1, seen)


def cold(size: Size, s: Settings, folder: Path) -> dict[str, Callable[[], float]]:
    dataset = written(folder / "cold", size, s.cold_bytes)
    nbytes = dataset.nbytes
    del dataset
    gc.collect()
    left = []

    def sequential() -> float:
        left.append(dropped(folder))
        buffer, total, start = bytearray(BLOCK), 0, time.perf_counter()
        for file in sorted(folder.rglob("*.h5")):
            with file.open("rb", buffering=0) as opened:
                while got := opened.readinto(buffer):
                    total += got
        return total / (time.perf_counter() - start) / MB

    def epoch(shuffle: str) -> float:
        left.append(dropped(folder))
        start = time.perf_counter()
        loader = Loader(SampleDataset(folder / "cold"), size.batch, shuffle=shuffle)
        count = sum(len(next(iter(batch.values()))) for batch in loader)
        seconds = time.perf_counter() - start
        assert count * size.row == nbytes
        del loader
        gc.collect()
        return nbytes / seconds / MB

    def check() -> float:
        return 100 * max(left or [dropped(folder)])

    return {"sequential read": sequential, "block shuffle": lambda: epoch("window"), "still cached, %": check}


# --- generation and memory


class Cheap(gym.Env):
    """A simulation that costs nothing."""

    observation_space = action_space = spaces.Box(-1, 1, (10,), np.float32)
    sample_space = spaces.Dict({name: spaces.Box(-1, 1, (10,), np.float32) for name in ("x", "y")})
    sample_roles = {"x": "input", "y": "target"}  # noqa: RUF012

    def __init__(self, render_mode=None) -> None:
        self.render_mode = render_mode
        self.value = np.zeros(10, np.float32)
        self.info = {"sample": {"x": self.value, "y": self.value}}

    def reset(self, *, seed=None, options=None):
        self.count = 0
        return self.value, {}

    def step(self, action):
        self.count += 1
        return self.value, 0.0, False, self.count == 1000, self.info


def generating(num_envs: int, s: Settings) -> float:
    with (
        below(s.folder) as folder,
        SampleStream(Cheap, path=folder / "d", num_workers=2, num_envs=num_envs) as stream,
    ):
        stream.take(1000)  # the start of the processes is not what is measured
        first, start = stream.writer.count, time.perf_counter()
        spent(lambda: len(stream.take(1 << 30)), 4 * s.seconds)
        stream.writer.commit()
        return (stream.writer.count - first) / (time.perf_counter() - start)


def status(name: str) -> float:
    """Return a line of this process's status, MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name + ":")).split()[1]) / 1024


@contextlib.contextmanager
def peak(found: dict[str, float]) -> Iterator[None]:
    """Return the most anonymous memory that is in use, MB, beyond what was at the beginning."""
    begin, most, over = status("RssAnon"), [0.0], threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            most.append(status("RssAnon"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        found["MB"] = max(most) - begin


def read_within(folder: str, allowed: int, shuffle: str, window: int) -> dict[str, float]:
    """Read an epoch in a process that may have so many bytes of data, its libraries included."""
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    dataset, found = SampleDataset(folder), {}
    assert dataset.nbytes >= 4 * allowed
    with peak(found):
        loader = Loader(dataset, 32, shuffle=shuffle, window=window, block=min(window // 8, BLOCK))
        found["samples"] = sum(len(next(iter(batch.values()))) for batch in loader)
    assert found["samples"] == len(dataset)
    return found


def write_much(folder: str, nbytes: int, name: str) -> dict[str, float]:
    size, found = SIZES[name], {}
    batch = size.samples(EPISODE)
    index = {key: np.zeros(EPISODE, "u8" if key == "seed" else "i8") for key in ("episode", "step", "seed")}
    with peak(found), SampleWriter(folder, size.spec, max_file_size=256 * MB) as writer:
        for _ in range(nbytes // (EPISODE * size.row)):
            writer.append(batch, **index)
    return found


def memory(s: Settings) -> dict[str, Callable[[], float]]:
    allowed = max(384 * MB, s.cold_bytes // 4)

    def reading(shuffle: str) -> float:
        with below(s.folder) as folder:
            written(folder / "d", SIZES["medium"], 4 * allowed + MB)
            how = {"allowed": allowed, "shuffle": shuffle, "window": 32 * MB}
            return call("storage", "read_within", "torch", 300, folder=str(folder / "d"), **how)["MB"]

    def writing(name: str) -> float:
        with below(s.folder) as folder:
            return call("storage", "write_much", "h5py", 300, folder=str(folder / "d"), nbytes=s.cold_bytes, name=name)[
                "MB"
            ]

    return {
        f"read {4 * allowed // MB} MB in {allowed // MB} MB, random": lambda: reading("random"),
        f"read {4 * allowed // MB} MB in {allowed // MB} MB, window of 32 MB": lambda: reading("window"),
        f"write {s.cold_bytes // MB} MB, small": lambda: writing("small"),
        f"write {s.cold_bytes // MB} MB, large": lambda: writing("large"),
    }


# --- rounds and tables


def measured(rows: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float] | str]:
    """Every round's figure of each row, or why there is none."""
    found: dict[str, list[float] | str] = {name: [] for name in rows}
    for turn in range(repeats):
        order = np.random.default_rng(turn).permutation(len(rows))  # so that nobody always comes after the same one
        for name, measure in [list(rows.items())[i] for i in order]:
            values = found[name]
            if isinstance(values, list):
                try:
                    values.append(measure())
                except Exception as error:  # noqa: BLE001  # the others are measured all the same
                    found[name] = f"{type(error).__name__}: {error}"
    return found


def verdict(section: str, name: str, place: int, value: float, ratio: float | None) -> str:
    """Return a star where a target is met, an exclamation mark where it is missed."""
    key, results = (section, name), []
    if key in TARGETS and TARGETS[key][place] is not None and ratio is not None:
        results.append(ratio >= TARGETS[key][place])
    if key in FLOORS and FLOORS[key][place] is not None:
        results.append(value >= FLOORS[key][place])
    if key in CEILINGS:
        results.append(value <= CEILINGS[key][place])
    return "" if not results else "*" if all(results) else "!"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(section: str, unit: str, columns: dict[str, dict[str, list[float] | str]], limits: dict[str, str]) -> None:
    """Print one section: a column per size; `limits` says which row a row is compared with, "" the others."""
    middle = max if section in BEST else statistics.median
    print(f"\n{section}, {unit}{', best rounds' if section in BEST else ''}")
    print(f"{'':<34}" + "".join(f"{size:>24}" for size in columns))
    medians = {
        size: {name: middle(values) for name, values in rows.items() if isinstance(values, list) and values}
        for size, rows in columns.items()
    }
    for name in dict.fromkeys(name for rows in columns.values() for name in rows):
        cells = []
        for place, size in enumerate(columns):
            value, limit = medians[size].get(name), limits.get(name, limits.get("", name))
            base = medians[size].get(limit) if limit != name else None
            ratio = value / base if value is not None and base else None
            of_size = list(SIZES).index(size) if size in SIZES else place
            mark = "" if value is None else verdict(section, name, of_size, value, ratio)
            text = "-" if value is None else number(value)
            cells.append(f"{text}{'' if ratio is None else f' ({ratio:.3f})'}{mark:>2}")
        print(f"{name:<34}" + "".join(f"{cell:>24}" for cell in cells))
    for size, rows in columns.items():
        for name, values in rows.items():
            if isinstance(values, str):
                print(f"{name}, {size}: left out: {' '.join(values.split())[:200]}")
    sys.stdout.flush()


BEST = ("append 32", "append 1")
PER_SIZE = {  # unit, and the limit of each row
    "append 32": ("samples/s (of os.write)", {"": "os.write"}),
    "append 1": ("samples/s (of os.write)", {"": "os.write"}),
    "partition": ("as said", {"": ""}),
    "shuffle": (
        "samples/s (of np.take)",
        {"": "np.take", "np.take, out=": "np.take, out=", "gather, out=": "np.take, out="},
    ),
    "windows": (f"windows of {STEPS} steps/s (of np.take of rows as large)", {"": "np.take"}),
    "cold": ("MB/s (of the sequential read)", {"": "sequential read", "still cached, %": "still cached, %"}),
}
SECTIONS = [*PER_SIZE, "generate", "memory"]


def of_size(section: str, size: Size, s: Settings) -> dict[str, list[float] | str]:
    if section.startswith("append"):
        return measured(appending(size, EPISODE if section == "append 32" else 1, s), 3 * s.repeats)
    if section == "partition":
        return measured(partitions(size, s), s.repeats)
    with below(s.folder) as folder:
        rows = {"shuffle": shuffling, "windows": windows, "cold": cold}[section](size, s, folder)
        found = measured(rows, s.repeats)
        rows.clear()
    return found


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in ("physgym", "numpy", "h5py", "torch", "zarr", "minari", "datasets", "lmdb"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SECTIONS), help="which of %(default)s; 'append' is both")
    parser.add_argument("--sizes", default=",".join(SIZES), help="which of %(default)s")
    parser.add_argument("--peers", default=",".join(STORES), help="which of %(default)s; '' for none")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--seconds", type=float, default=0.3, help="per measurement; %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; %(default)s")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it works; the figures say nothing")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    add_rows_option(parser)
    arguments = parser.parse_args(argv)
    wanted = arguments.only.split(",")
    sections = [name for name in SECTIONS if name in wanted or name.split(" ")[0] in wanted]
    if unknown := [name for name in wanted if name not in {*SECTIONS, "append"}]:
        parser.error(f"there is no {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    sizes = {name: SIZES[name] for name in arguments.sizes.split(",")}
    peers = [STORES[name] for name in filter(None, arguments.peers.split(","))]
    nbytes, cold_bytes = (2 * MB, 4 * MB) if arguments.quick else (384 * MB, 1024 * MB)
    seconds, repeats = (0.01, 1) if arguments.quick else (arguments.seconds, arguments.repeats)
    if arguments.rows:
        with below(arguments.folder) as folder:
            write_rows(arguments.rows, appended(Settings(folder, seconds, repeats, nbytes, cold_bytes, [])))
        return
    print(f"{versions()} - {os.cpu_count()} cores")
    for peer in peers:
        if not peer.installed():
            print(f"{peer.title}: {peer.module} is not installed, left out")
    report: dict[str, object] = {"versions": versions(), "cores": os.cpu_count(), "seconds": seconds}
    with below(arguments.folder) as folder:
        s = Settings(folder, seconds, repeats, nbytes, cold_bytes, [peer for peer in peers if peer.installed()])
        for section in sections:
            if section in PER_SIZE:
                unit, limits = PER_SIZE[section]
                found = {name: of_size(section, size, s) for name, size in sizes.items()}
            elif section == "generate":
                unit, limits = "samples/s", {"": ""}
                rows = {"2 workers": lambda: generating(2, s), "2 workers, 32 envs": lambda: generating(32, s)}
                found = {"small": measured(rows, s.repeats)}
            else:
                unit, limits = "MB of anonymous memory beyond the libraries", {"": ""}
                found = {"MB": measured(memory(s), 1)}
            show(section, unit, found, limits)
            report[section] = found
            if arguments.json:  # after each, so that a run that is broken off is not lost
                arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
