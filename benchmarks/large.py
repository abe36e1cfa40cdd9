"""Datasets of 10^6 to 10^9 small samples: split, first shuffled batch, then samples/s, and the memory of the parts.

Rows are zeros of a sparse file, so that 10^8 of them take 0.8 GB of the disk: the numbers of their episodes, which are
written. In the page cache they take all of their room, which is filled before (`cached`); what does not fit is read by
blocks. Beside the rates stands the limit: rows taken at random from the same mapped memory by numpy, as many at a time;
where the disk is read, its random reads of a page from a file that is not in the page cache.

    python benchmarks/large.py --counts 1e6 1e7 1e8     # a table
    python benchmarks/large.py --rows FILE              # the figures that are wanted
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from storage import SIZES, Settings, below, measured, shuffling, spent, status
from wanted_rows import WantedRow, add_rows_option, write_rows

from physgym import SampleDataset
from physgym.data.file_image import file_size
from physgym.data.layout import PartitionLayout
from physgym.data.partition import Partition
from physgym.data.writer import SampleWriter
from physgym.loading.loader import Loader
from physgym.system.memory import available_memory

MB = 1 << 20
BATCH = 256
CHUNK = 26_000  # rows that are taken together, as a loader does of small ones
NUMBERED = 2 * 10**8  # samples up to which episodes are written, 8 bytes each
PASSES, HELD = 3, 0.99  # times that all is read at most, until so much of it is in the page cache
SIZE = SIZES["small"]


def sparse(folder: Path, count: int, steps: int) -> None:
    """Make a dataset of so many samples, in episodes of so many steps, whose fields are holes of the file."""
    largest = file_size(PartitionLayout(SIZE.spec), count, {}) + MB
    writer = SampleWriter(folder, SIZE.spec, max_file_size=largest)
    zero = np.zeros(1, "i8")
    writer.append({name: value[:1] for name, value in SIZE.samples(1).items()}, episode=zero, step=zero, seed=zero)
    writer.commit()
    writer.close(seal=False)
    part = Partition(next(folder.glob("*.h5")))
    table = part.tables["samples"]
    with part.path.open("r+b") as file:
        for start in range(0, count if count <= NUMBERED else 0, MB):
            numbers = np.arange(start, min(count, start + MB)) // steps
            os.pwrite(file.fileno(), numbers.astype("<i8").tobytes(), table.columns["index/episode"].offset + 8 * start)
        os.pwrite(file.fileno(), np.array([count], "<u8").tobytes(), table.counter)


def fill_cache(dataset: SampleDataset) -> None:
    """Read all fields and episodes, so that the page cache holds what fits.

    What is read once makes room for other files that are read once; a second time it stays.
    """
    for _ in range(PASSES):
        _read_fields(dataset)
        cached = dataset.cached_fraction()
        if cached is None or cached > HELD:
            return


def _read_fields(dataset: SampleDataset) -> None:
    part = dataset.partitions[0]
    buffer = bytearray(16 * MB)
    with part.path.open("rb", buffering=0) as file:
        for column in part.tables["samples"].columns.values():
            if column.name.startswith("data/") or column.name == "index/episode":
                file.seek(column.offset)
                for _ in range(-(-part.count * column.row // len(buffer))):
                    file.readinto(buffer)


def taken(dataset: SampleDataset, seconds: float) -> float:
    """Return the rows per second that numpy takes at random from the mapped fields."""
    arrays = list(dataset.arrays.values())
    rng = np.random.default_rng(0)
    places = itertools.cycle([rng.integers(0, len(dataset), CHUNK) for _ in range(64)])

    def step() -> int:
        rows = next(places)
        for array in arrays:
            np.take(array, rows, axis=0, out=np.empty((CHUNK, *array.shape[1:]), "f4"), mode="clip")
        return CHUNK

    spent(step, seconds / 4)
    done, took = spent(step, seconds)
    return done / took


def disk_reads(folder: Path, seconds: float) -> float:
    """Return the pages per second that the disk reads at random, one after the other, out of the page cache."""
    size, page = 512 * MB, 4096
    with below(folder) as place:
        handle = os.open(place / "random", os.O_RDWR | os.O_CREAT)
        try:
            block = os.urandom(MB)
            for _ in range(size // MB):
                os.write(handle, block)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_RANDOM)  # no pages around the one that is asked for
            offsets = iter((np.random.default_rng(0).permutation(size // page) * page).tolist())
            done, took = spent(lambda: len(os.pread(handle, page, next(offsets))) // page, seconds, size // page)
        finally:
            os.close(handle)
    return done / took


def load(samples: SampleDataset, seconds: float, shuffle: str | bool = True) -> tuple[str, float, float]:
    """Return the order, the seconds to the first batch, and samples per second afterwards."""
    loader = Loader(samples, BATCH, shuffle=shuffle)
    batches = (batch for _ in itertools.count() for batch in loader)
    start = time.perf_counter()
    next(batches)
    first = time.perf_counter() - start
    spent(lambda: len(next(batches)["x"]), seconds / 2)
    done, took = spent(lambda: len(next(batches)["x"]), seconds)
    return loader.order, first, done / took


def measure(folder: Path, count: int, steps: int, seconds: float) -> dict[str, object]:
    """Return the figures of a dataset, which is made for them and removed."""
    import torch  # noqa: F401 - so that no figure has its import

    found: dict[str, object] = {"samples": count, "steps": steps}
    with below(folder) as place:
        sparse(place / "d", count, steps)
        dataset = SampleDataset(place / "d")
        if 1.2 * dataset.nbytes < (available_memory() or 0):
            fill_cache(dataset)
        found["cached"] = dataset.cached_fraction()
        training = dataset
        if count <= NUMBERED:
            before, start = status("RssAnon"), time.perf_counter()
            training, _ = dataset.split(0.1, seed=1)
            found["split, s"] = time.perf_counter() - start
            found["parts, MB"] = status("RssAnon") - before
        found["order"], found["first batch, s"], found["samples/s"] = load(training, seconds)
        if found["order"] == "random":
            found["np.take, rows/s"] = taken(dataset, seconds)
        else:
            found["random reads of the disk, pages/s"] = disk_reads(place, seconds)
    return found


def wanted(folder: Path, seconds: float) -> list[WantedRow]:
    """Return the figures that are wanted: of the largest dataset that fits, and of a loader over a gather in memory."""
    room = min(available_memory() or 0, 4 * shutil.disk_usage(folder).free)
    count = next((count for count in (10**8, 3 * 10**7, 10**7) if 1.5 * count * SIZE.row < room), 10**6)
    found, title = measure(folder, count, 100, seconds), f"large/{count:.0e} samples"
    beside = {name: found[name] for name in ("cached", "np.take, rows/s") if name in found}
    rows = [
        WantedRow(f"{title}/split", found["split, s"], 0.5, "s", "less"),
        WantedRow(f"{title}/first shuffled batch", found["first batch, s"], 0.1, "s", "less"),
        WantedRow(f"{title}/then", found["samples/s"], 12e6, "samples/s", "more", beside),
        WantedRow(f"{title}/memory of the parts", found["parts, MB"], 40, "MB", "less"),
    ]
    for name, least in (("medium", 0.75), ("large", 0.8)):
        with below(folder) as place:
            settings = Settings(folder, seconds / 5, 5, 384 * MB, 1024 * MB, [])
            every = shuffling(SIZES[name], settings, place)
            rates = {what: float(np.median(v)) for what, v in measured({k: every[k] for k in WAYS}, 5).items()}
            every.clear()
        value = rates["Loader"] / rates["np.take"]
        rows.append(WantedRow(f"Loader/shuffled/{name}", value, least, "of np.take", "more", rates))
    return rows


WAYS = ("np.take", "gather", "Loader")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=float, nargs="+", default=[1e6, 1e7], help="samples; %(default)s")
    parser.add_argument("--steps", type=int, default=100, help="of an episode; %(default)s")
    parser.add_argument("--seconds", type=float, default=2.0, help="per rate; %(default)s")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to use")
    add_rows_option(parser)
    arguments = parser.parse_args()
    if arguments.rows is not None:
        write_rows(arguments.rows, wanted(arguments.folder, arguments.seconds))
        return
    for count in arguments.counts:
        found = measure(arguments.folder, int(count), arguments.steps, arguments.seconds)
        print(
            "  ".join(
                f"{name}: {value:,.4g}" if isinstance(value, float) else f"{name}: {value}"
                for name, value in found.items()
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
