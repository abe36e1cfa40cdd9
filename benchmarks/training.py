"""A step of training: `Trainer` beside a bare PyTorch loop over arrays in memory, in the same minute.

The bare loop has the data as two tensors, normalized beforehand; it shuffles indices, gathers a batch, computes the mean
squared error, its gradient and a step of Adam, and adds up the loss. The trainer normalizes within the step, as it does
by default, checks every loss, and tells its callbacks. All ways are measured in turn, in rounds of random order; medians
are printed, with the rate in brackets as a fraction of that of the bare loop, or for reading from partitions on disk of
that from memory; a star is a target met, an exclamation mark one missed.

Peers that are not installed are left out: `pip install pytorch-lightning`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")  # before numpy is imported

import numpy as np  # noqa: E402
import torch  # noqa: E402
from isolated import call  # noqa: E402
from torch import nn  # noqa: E402

from physgym import SampleDataset  # noqa: E402
from physgym.data.statistics import Statistics  # noqa: E402
from physgym.data.writer import SampleWriter  # noqa: E402
from physgym.nn import MLP, UNet  # noqa: E402
from physgym.sample import Field, SampleSpec  # noqa: E402
from physgym.training import Trainer  # noqa: E402

MB = 1 << 20
EPISODE = 32  # samples
HEAVY = 2000  # microseconds from which on a step is one that costs something
TARGETS = {"memory": (0.7, 0.95), "disk": (0.9, 0.9)}  # least ratio, of the smallest network and of a heavy step


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
    "UNet 1-D, 256, batch 32": Work(lambda: UNet(1, 1, 1, width=16), (256,), (256,), 32, 60),
    "UNet 2-D, 64 x 64, batch 8": Work(lambda: UNet(2, 1, 1, width=16), (64, 64), (64, 64), 8, 20),
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
    """The samples as a dataset of some partitions."""
    nbytes = work.spec.nbytes + 28
    with SampleWriter(folder, work.spec, max_file_size=max(MB, count * nbytes // 8)) as writer:
        for start in range(0, count, 4096):
            i = np.arange(start, min(count, start + 4096))
            writer.append(work.samples(len(i), start), episode=i // EPISODE, step=i % EPISODE, seed=i // EPISODE)
    return SampleDataset(folder)


# --- ways to train; each returns the microseconds of a step


def bare(work: Work, arrays: Mapping[str, np.ndarray], epochs: int, device: str) -> float:
    network = work.build().to(device)
    x, y = (torch.from_numpy(arrays[name]).to(device) for name in "xy")
    optimizer, loss_of, total = torch.optim.Adam(network.parameters()), nn.MSELoss(), 0.0
    network.train()
    start = time.perf_counter()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), device=device).split(work.batch):
            loss = loss_of(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
    return (time.perf_counter() - start) / (epochs * work.batches) * 1e6


def data_loader(work: Work, arrays: Mapping[str, np.ndarray], epochs: int, device: str) -> float:
    network = work.build().to(device)
    tensors = torch.utils.data.TensorDataset(*(torch.from_numpy(arrays[name]) for name in "xy"))
    loader = torch.utils.data.DataLoader(tensors, work.batch, shuffle=True)
    optimizer, loss_of, total = torch.optim.Adam(network.parameters()), nn.MSELoss(), 0.0
    start = time.perf_counter()
    for _ in range(epochs):
        for x, y in loader:
            loss = loss_of(network(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
    return (time.perf_counter() - start) / (epochs * work.batches) * 1e6


def trainer(work: Work, dataset: object, epochs: int, device: str, **options: object) -> float:
    network = work.build()
    options = {"validation": None, "progress": False, "batch_size": work.batch, **options}
    run = Trainer(network, dataset, epochs=epochs, device=device, **options)
    start = time.perf_counter()
    run.fit()
    seconds = time.perf_counter() - start
    assert run.step == epochs * work.batches
    return seconds / run.step * 1e6


def lightning(work: Work, arrays: Mapping[str, np.ndarray], epochs: int, device: str, folder: Path) -> float:
    import pytorch_lightning as pl

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

    tensors = torch.utils.data.TensorDataset(*(torch.from_numpy(arrays[name]) for name in "xy"))
    loader = torch.utils.data.DataLoader(tensors, work.batch, shuffle=True)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    run = pl.Trainer(
        max_epochs=epochs, accelerator=device.replace("cuda", "gpu"), devices=1, default_root_dir=folder, **off
    )
    start = time.perf_counter()
    run.fit(Module(), loader)
    return (time.perf_counter() - start) / run.global_step * 1e6


PEERS = {"lightning": "pytorch_lightning"}


def ways(work: Work, folder: Path, epochs: int, device: str, peers: Sequence[str]) -> dict[str, Callable[[], float]]:
    """What is compared, by name."""
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


LIMITS = {"Trainer, disk": "Trainer, memory"}  # what a rate is compared with; the bare loop otherwise


# --- memory


def train_within(folder: str, samples: int) -> dict[str, float]:
    """The most memory of this process that is not a file's, MB, while it trains on a dataset made before."""
    torch.set_num_threads(1)
    work, most = WORKS["UNet 1-D, 256, batch 32"], [0.0]
    dataset = SampleDataset(folder)
    assert len(dataset) == samples

    class Watch(torch.nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lines = Path("/proc/self/status").read_text().splitlines()
            most.append(int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) / 1024)
            return x

    network = nn.Sequential(MLP((256,), (256,), hidden=(32,)), Watch())
    Trainer(network, dataset, epochs=1, batch_size=1024, validation=None, progress=False, shuffle="random").fit()
    return {"MB": max(most), "work": work.batch}


def memory(folder: Path, sizes: Sequence[int]) -> dict[str, dict[str, float]]:
    """By size of the dataset: the most memory of a process that trains on it, MB."""
    found = {}
    for size in sizes:
        path = folder / f"of-{size}"
        work = WORKS["UNet 1-D, 256, batch 32"]
        dataset = written(path, work, max(1024, size // (work.spec.nbytes)))
        found[f"{dataset.nbytes / MB:.0f} MB"] = call(
            "training", "train_within", "torch", 300, folder=str(path), samples=len(dataset)
        )
    return found


# --- rounds and tables


def rounds(rows: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Every round's figure of each row."""
    found: dict[str, list[float]] = {name: [] for name in rows}
    for turn in range(repeats):
        order = np.random.default_rng(turn).permutation(len(rows))  # so that nobody always comes after the same one
        for name, measure in [list(rows.items())[i] for i in order]:
            found[name].append(measure())
    return found


def show(title: str, found: Mapping[str, list[float]], smallest: bool) -> None:
    """A table of one network."""
    print(f"\n{title}\n{'':<28}{'us per step':>12}{'least':>9}{'most':>9}   rate, as a fraction")
    usual = {name: statistics.median(values) for name, values in found.items()}
    for name, values in found.items():
        limit = LIMITS.get(name, "bare loop")
        ratio = usual[limit] / usual[name]
        text = "" if name == limit else f"{ratio:.2f} of {limit}"
        if name == "Trainer, memory" or name in LIMITS:
            least = TARGETS["disk" if name in LIMITS else "memory"][0 if smallest else 1]
            if smallest or usual["bare loop"] >= HEAVY:
                text += " *" if ratio >= least else f" ! wanted {least}"
        print(f"{name:<28}{usual[name]:>12.0f}{min(values):>9.0f}{max(values):>9.0f}   {text}", flush=True)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without what peers tell about themselves."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; %(default)s")
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement, about; %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="rounds; %(default)s")
    parser.add_argument("--only", default="", help="works whose name has this text")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs; the figures say nothing")
    parser.add_argument("--no-memory", action="store_true", help="leave out the memory over the size of the dataset")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="write every round's figures to this file")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    peers = [name for name, module in PEERS.items() if importlib.util.find_spec(module)]
    print(f"torch {torch.__version__} on {arguments.device}, one thread of {os.cpu_count()} cores")
    for name in PEERS.keys() - set(peers):
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
            step = bare(work, arrays, 1, arguments.device)
            if not arguments.quick:
                epochs = max(1, round(arguments.seconds / (step * 1e-6 * work.batches)))
            found = rounds(ways(work, Path(folder), epochs, arguments.device, peers), repeats)
        show(title, found, smallest=index == 0)
        report[title] = found
    if not arguments.no_memory and not arguments.only:
        sizes = [MB, 2 * MB] if arguments.quick else [64 * MB, 256 * MB, 1024 * MB]
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            report["memory"] = found_memory = memory(Path(folder), sizes)
        print("\nmemory of a process that trains, without that of files in the page cache")
        for size, value in found_memory.items():
            print(f"{size:<28}{value['MB']:>12.0f} MB")
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
