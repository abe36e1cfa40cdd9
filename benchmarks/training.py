"""A step of training: `Trainer` beside a bare PyTorch loop over arrays in memory, in the same minute.

The bare loop has the data as two tensors, normalized beforehand; it shuffles indices, gathers a batch, computes the
mean squared error, its gradient and a step of Adam, and adds up the loss. The trainer normalizes within the step, as it
does by default, checks every loss, and tells its callbacks. Everything computes with one thread.

All ways are measured in turn, in rounds of random order. What a shared machine does besides makes single rounds up to
ten times slower, never faster: the best rounds are compared. Rates are fractions of that of the bare loop, or for
reading from partitions on disk of that from memory: by the clock, and by the time of processors, all threads together,
which says more on a busy machine. A star is a target met, an exclamation mark one missed, by processor time (on a GPU
by the clock).

Peers that are not installed are left out: `pip install pytorch-lightning`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from isolated import call  # noqa: E402
from torch import nn  # noqa: E402
from wanted_rows import WantedRow, add_rows_option, write_rows  # noqa: E402

from physgym import SampleDataset  # noqa: E402
from physgym.data.statistics import Statistics  # noqa: E402
from physgym.data.writer import SampleWriter  # noqa: E402
from physgym.nn import MLP, UNet  # noqa: E402
from physgym.sample import Field, SampleSpec  # noqa: E402
from physgym.training import Callback, Trainer  # noqa: E402

MB = 1 << 20
EPISODE = 32  # samples
HEAVY = 2000  # microseconds from which on a step is one that costs something
TARGETS = {  # least ratio, for the smallest network and for a heavy step
    "Trainer, memory": (0.7, 0.95),
    "Trainer, disk": (0.9, 0.9),
}
WANTED = (0.8, 0.95, 0.97, 0.97)  # rates of a trainer with a session over a bare loop, by processor time
OVERHEAD = 60.0  # microseconds that a step of the smallest network may take longer with a session
LIMITS = {"Trainer, disk": "Trainer, memory"}  # what a rate is compared with; the bare loop otherwise


@dataclass(frozen=True)
class Work:
    """A network, the shapes of its input and output, samples of a batch, and batches of an epoch."""

    network: Callable[[], nn.Module]
    x: tuple[int, ...]
    y: tuple[int, ...]
    batch: int
    batches: int

    @property
    def spec(self) -> SampleSpec:
        return SampleSpec([Field("x", self.x, np.dtype("f4"), "input"), Field("y", self.y, np.dtype("f4"), "target")])

    def samples(self, count: int, seed: int = 0) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {field.name: rng.standard_normal((count, *field.shape), np.float32) for field in self.spec.values()}

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return self.network()


WORKS = {
    "MLP, 1 layer of 32, batch 256": Work(lambda: MLP((8,), (8,), hidden=(32,)), (8,), (8,), 256, 400),
    "MLP, beam, batch 64": Work(
        lambda: MLP((208, 3), (208, 3), hidden=(256, 256, 256), residual=True), (208, 3), (208, 3), 64, 100
    ),
    "UNet 1-D, 256, batch 16": Work(lambda: UNet(1, 1, 1, width=16), (256,), (256,), 16, 20),
    "UNet 2-D, 64 x 64, batch 8": Work(lambda: UNet(2, 1, 1, width=8), (64, 64), (64, 64), 8, 20),
}


class InMemory:
    """Samples as arrays."""

    def __init__(self, spec: SampleSpec, arrays: Mapping[str, np.ndarray]) -> None:
        self.spec, self.arrays = spec, dict(arrays)

    def __len__(self) -> int:
        return len(self.arrays["x"])

    def gather(
        self, indices: np.ndarray, fields: Sequence[str] | None = None, out: dict[str, np.ndarray] | None = None
    ) -> dict[str, np.ndarray]:
        names = self.spec if fields is None else fields
        return {n: np.take(self.arrays[n], indices, axis=0, out=out[n] if out else None) for n in names}

    @property
    def statistics(self) -> dict[str, Statistics]:
        return {name: Statistics.of(value) for name, value in self.arrays.items()}


def written(folder: Path, work: Work, count: int) -> SampleDataset:
    """Write the samples as a dataset of some partitions."""
    nbytes = work.spec.nbytes + 28
    with SampleWriter(folder, work.spec, max_file_size=max(MB, count * nbytes // 8)) as writer:
        for start in range(0, count, 4096):
            i = np.arange(start, min(count, start + 4096))
            writer.append(work.samples(len(i), start), episode=i // EPISODE, step=i % EPISODE, seed=i // EPISODE)
    return SampleDataset(folder)


# --- ways to train; each returns microseconds of a step: of the clock, and of the processor


@dataclass(frozen=True)
class Cost:
    """Microseconds of a step."""

    clock: float
    processor: float

    @classmethod
    def of(cls, train: Callable[[], int]) -> Cost:
        """Measure a function that returns the number of its steps."""
        gc.collect()
        clock, processor = time.perf_counter(), time.process_time()
        steps = train()
        return cls((time.perf_counter() - clock) / steps * 1e6, (time.process_time() - processor) / steps * 1e6)


def bare(work: Work, arrays: Mapping[str, np.ndarray], epochs: int, device: str) -> Cost:
    network = work.build().to(device).train()
    x, y = (torch.from_numpy(arrays[name]).to(device) for name in "xy")
    optimizer, loss_of = torch.optim.Adam(network.parameters()), nn.MSELoss()

    def train() -> int:
        total = 0.0
        for _ in range(epochs):
            for rows in torch.randperm(len(x), device=device).split(work.batch):
                loss = loss_of(network(x[rows]), y[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
        return epochs * work.batches

    return Cost.of(train)


def loader(work: Work, arrays: Mapping[str, np.ndarray]) -> torch.utils.data.DataLoader:
    tensors = torch.utils.data.TensorDataset(*(torch.from_numpy(arrays[name]) for name in "xy"))
    return torch.utils.data.DataLoader(tensors, work.batch, shuffle=True)


def data_loader(work: Work, arrays: Mapping[str, np.ndarray], epochs: int, device: str) -> Cost:
    network, batches = work.build().to(device).train(), loader(work, arrays)
    optimizer, loss_of = torch.optim.Adam(network.parameters()), nn.MSELoss()

    def train() -> int:
        total = 0.0
        for _ in range(epochs):
            for x, y in batches:
                loss = loss_of(network(x.to(device)), y.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
        return epochs * work.batches

    return Cost.of(train)


def trainer(work: Work, dataset: object, epochs: int, device: str, **options: object) -> Cost:
    fixed = {"validation": None, "progress": False, "batch_size": work.batch, "device": device}
    run = Trainer(work.build(), dataset, epochs=epochs, **fixed, **options)

    def train() -> int:
        run.fit()
        assert run.step == epochs * work.batches
        return run.step

    return Cost.of(train)


def lightning(work: Work, arrays: Mapping[str, np.ndarray], epochs: int, device: str, folder: Path) -> Cost:
    import pytorch_lightning as pl

    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network, self.loss_of = work.build(), nn.MSELoss()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            x, y = batch
            loss = self.loss_of(self.network(x), y)
            self.log("loss", loss, on_step=False, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    off = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    where = {"accelerator": device.replace("cuda", "gpu"), "devices": 1, "default_root_dir": folder}
    run, module, batches = (
        pl.Trainer(max_epochs=epochs, **where, **dict.fromkeys(off, False)),
        Module(),
        loader(work, arrays),
    )

    def train() -> int:
        run.fit(module, batches)
        return run.global_step

    return Cost.of(train)


PEERS = {"lightning": "pytorch_lightning"}


def ways(work: Work, folder: Path, epochs: int, device: str, peers: Sequence[str]) -> dict[str, Callable[[], Cost]]:
    """Return what is compared, by name."""
    count = work.batch * work.batches
    stored = written(folder / "data", work, count)
    arrays = stored[:]
    arrays = {name: np.ascontiguousarray(arrays[name]) for name in work.spec}
    memory, numbers = InMemory(work.spec, arrays), itertools.count()
    found = {
        "bare loop": lambda: bare(work, arrays, epochs, device),
        "bare loop, DataLoader": lambda: data_loader(work, arrays, epochs, device),
        "Trainer, memory": lambda: trainer(work, memory, epochs, device),
        "Trainer, memory, session": lambda: trainer(work, memory, epochs, device, session=folder / str(next(numbers))),
        "Trainer, disk": lambda: trainer(work, stored, epochs, device),
    }
    if "lightning" in peers:
        found["lightning"] = lambda: lightning(work, arrays, epochs, device, folder)
    return found


# --- memory

PLAIN = Work(lambda: MLP((256,), (256,), hidden=(32,)), (256,), (256,), 256, 0)


def train_within(folder: str, samples: int) -> float:
    """Return the most memory of this process while it trains, without that of files, MB."""
    torch.set_num_threads(1)
    dataset, most = SampleDataset(folder), [0.0]
    assert len(dataset) == samples

    class Watch(Callback):
        def batch_end(self, trainer: Trainer, values: dict[str, float]) -> None:
            lines = Path("/proc/self/status").read_text().splitlines()
            most.append(int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) / 1024)

    quiet = {"validation": None, "progress": False, "callbacks": [Watch()]}
    Trainer(PLAIN.build(), dataset, epochs=2, batch_size=PLAIN.batch, shuffle="random", **quiet).fit()
    return max(most)


def memory(folder: Path, sizes: Sequence[int]) -> dict[str, float]:
    """By size of the dataset, the most memory of a process that trains on it, MB."""
    found = {}
    for size in sizes:
        path = folder / f"of-{size}"
        dataset = written(path, PLAIN, size // PLAIN.spec.nbytes)
        how = {"folder": str(path), "samples": len(dataset)}
        found[f"{dataset.nbytes / MB:.0f} MB"] = call("training", "train_within", "torch", 300, **how)
        shutil.rmtree(path)
    return found


# --- rounds and tables


def rounds(rows: Mapping[str, Callable[[], Cost]], repeats: int) -> dict[str, list[Cost]]:
    """Every round's figures of each row."""
    found: dict[str, list[Cost]] = {name: [] for name in rows}
    for turn in range(repeats):
        order = np.random.default_rng(turn).permutation(len(rows))  # so that nobody always comes after the same one
        for name, measure in [list(rows.items())[i] for i in order]:
            found[name].append(measure())
    return found


def show(title: str, found: Mapping[str, list[Cost]], smallest: bool, device: str) -> None:
    """Print a table of one network."""
    print(f"\n{title}\n{'microseconds per step':<28}{'clock':>9}{'processor':>11}   rate by both, as a fraction")
    clock = {name: min(cost.clock for cost in costs) for name, costs in found.items()}
    processor = {name: min(cost.processor for cost in costs) for name, costs in found.items()}
    for name in found:
        limit = LIMITS.get(name, "bare loop")
        rates = [best[limit] / best[name] for best in (clock, processor)]
        text = "" if name == limit else f"{rates[0]:.2f} {rates[1]:.2f} of {limit}"
        if name in TARGETS and (smallest or clock["bare loop"] >= HEAVY):
            least = TARGETS[name][0 if smallest else 1]
            text += " *" if rates[device == "cpu"] >= least else f" ! wanted {least}"
        print(f"{name:<28}{clock[name]:>9.0f}{processor[name]:>11.0f}   {text}", flush=True)


def wanted_rows(seconds: float, repeats: int) -> Iterator[WantedRow]:
    """Measure a trainer with a session beside the bare loop, for each network."""
    for (title, work), wanted in zip(WORKS.items(), WANTED, strict=True):
        arrays, numbers = work.samples(work.batch * work.batches), itertools.count()
        samples, step = InMemory(work.spec, arrays), bare(work, arrays, 1, "cpu").clock
        epochs = max(1, round(seconds / (step * 1e-6 * work.batches)))
        with tempfile.TemporaryDirectory() as folder:
            ways = {
                "bare": partial(bare, work, arrays, epochs, "cpu"),
                "session": lambda: trainer(work, samples, epochs, "cpu", session=Path(folder) / str(next(numbers))),  # noqa: B023
            }
            found = rounds(ways, repeats)
        best = {name: min(cost.processor for cost in costs) for name, costs in found.items()}
        name = title.rsplit(",", 1)[0]
        beside = {"bare loop, us": best["bare"]}
        yield WantedRow(f"trainer/{name}", best["bare"] / best["session"], wanted, "of a bare loop", beside=beside)
        if wanted == WANTED[0]:
            longer = best["session"] - best["bare"]
            yield WantedRow(f"trainer/{name}/longer", longer, OVERHEAD, "us a step", "less", beside=beside)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silence what peers print about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; %(default)s")
    parser.add_argument("--seconds", type=float, default=0.4, help="per measurement, about; %(default)s")
    parser.add_argument("--repeats", type=int, default=12, help="rounds; %(default)s")
    parser.add_argument("--only", default="", help="works whose name has this text")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs; the figures say nothing")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory over the size of the dataset")
    parser.add_argument("--no-peers", action="store_true", help="leave them out")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    add_rows_option(parser)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    if arguments.rows:
        with silent():
            write_rows(arguments.rows, wanted_rows(arguments.seconds, arguments.repeats))
        return
    wanted = {} if arguments.no_peers else PEERS
    peers = [name for name, module in wanted.items() if importlib.util.find_spec(module)]
    print(f"torch {torch.__version__} on {arguments.device}, one thread of {os.cpu_count()} cores")
    for name in wanted.keys() - set(peers):
        print(f"{name} is not installed, left out")
    report: dict[str, object] = {}
    for index, (title, work) in enumerate(WORKS.items()):
        if arguments.only not in title:
            continue
        repeats, epochs = arguments.repeats, 1
        if arguments.quick:
            work, repeats = Work(work.network, work.x, work.y, 4, 2), 1
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, silent():
            arrays = work.samples(work.batch * work.batches)
            step = bare(work, arrays, 1, arguments.device).clock  # the first one is slow
            if not arguments.quick:
                epochs = max(1, round(arguments.seconds / (step * 1e-6 * work.batches)))
            found = rounds(ways(work, Path(folder), epochs, arguments.device, peers), repeats)
        show(title, found, index == 0, arguments.device)
        report[title] = {name: [asdict(cost) for cost in costs] for name, costs in found.items()}
    if not arguments.no_memory and not arguments.only:
        sizes = [MB] if arguments.quick else [64 * MB, 256 * MB, 1024 * MB]
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            report["memory"] = taken = memory(Path(folder), sizes)
        print("\nmemory of a process that trains on so many samples, without that of files in the page cache")
        for size, value in taken.items():
            print(f"{size:<28}{value:>9.0f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
