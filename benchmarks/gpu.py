"""All that physgym does on a GPU, measured in one run of at most six minutes; small on a CPU, to see that it runs.

    python benchmarks/gpu.py                    # on the GPU, else small on the CPU
    python benchmarks/gpu.py --json gpu.json    # also every figure as JSON

- training: `Trainer` over a bare PyTorch loop for four networks at three batch sizes, samples held on the device and
  streamed to it. The bare loop keeps its losses on the device; the trainer normalizes, checks and counts as well.
- precision: an FNO and a UNet in float32 and bfloat16, and the smallest network with CUDA graphs.
- prediction: the latency of one sample and the rate of many, from arrays to arrays, beside the network alone.
- environment: heated plates that are computed together, and a training on their samples, which stay on the device.
- processes: a training in a group of one process (NCCL, or gloo without a GPU), and in two that share the device
  (gloo); on a CPU only where it is asked for.

What is wanted stands beside it: of the training 0.95 of the bare loop at the middle batch size. A part that fails is
printed with its error, and the others go on; the exit status is 1 then.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from training import WORKS, InMemory, Work
from wanted_rows import WantedRow, add_rows_option, write_rows

from physgym.envs.heat_batch import HeatBatch
from physgym.nn import FNO, MLP, Optimization, Predictor, Transforms, UNet
from physgym.training import Callback, TensorSource, Trainer

WANTED = 0.95  # of the bare loop, at the middle batch size
SIZES = {  # samples of a batch, by the name of the network
    "MLP, 1 layer of 32, batch 256": (256, 2048, 16384),
    "MLP, beam, batch 64": (64, 512, 4096),
    "UNet 1-D, 256, batch 16": (16, 64, 256),
    "UNet 2-D, 64 x 64, batch 8": (8, 32, 128),
}
BATCHES = 24  # of an epoch
LIMIT = 300.0  # seconds after which no further part is begun
SHARED = "shared"  # argument with which this file is one of two processes


class Clock(Callback):
    """Time of the steps after the first epoch, in which memory is allocated and kernels are chosen."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.begun, self.steps, self.seconds = device, 0.0, 0, 0.0

    def epoch_begin(self, trainer: Trainer) -> None:
        if trainer.epoch == 1:
            wait(self.device)
            self.begun, self.steps = time.perf_counter(), trainer.step

    def train_end(self, trainer: Trainer, history: object) -> None:
        wait(self.device)
        self.seconds, self.steps = time.perf_counter() - self.begun, trainer.step - self.steps


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(work: Callable[[], int], seconds: float, device: torch.device) -> float:
    """Call a function for some seconds; return how many of what it counts it has made per second."""
    work()
    wait(device)
    begun, made, took = time.perf_counter(), 0, 0.0
    while not made or took < seconds:
        made += work()
        wait(device)
        took = time.perf_counter() - begun
    return made / took


# --- training


def bare(work: Work, arrays: Mapping[str, np.ndarray], batch: int, device: torch.device, held: bool) -> Callable:
    """Return an epoch of a bare loop, which gives its number of steps."""
    network = work.build().to(device).train()
    x, y = (torch.from_numpy(arrays[name]) for name in "xy")
    if held:
        x, y = x.to(device), y.to(device)
    optimizer, loss_of = torch.optim.Adam(network.parameters()), nn.MSELoss()
    total = torch.zeros((), device=device)

    def moved(value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        if held or device.type == "cpu":
            return value[rows]
        return value[rows].pin_memory().to(device, non_blocking=True)

    def epoch() -> int:
        steps = 0
        for rows in torch.randperm(len(x), device=x.device).split(batch):
            loss = loss_of(network(moved(x, rows)), moved(y, rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total.add_(loss.detach())
            steps += 1
        return steps

    return epoch


def trained(work: Work, samples: Any, batch: int, device: torch.device, epochs: int, **options: Any) -> float:
    """Return the steps per second of a trainer."""
    clock, network = Clock(device), work.build()
    precision = options.pop("precision", "float32")
    run = Trainer(
        network,
        samples,
        epochs=1 + epochs,
        batch_size=batch,
        device=device,
        callbacks=[clock],
        optimization=Optimization(network, precision=precision),
        validation=None,
        progress=False,
        **options,
    )
    run.fit()
    return clock.steps / clock.seconds


def training(device: torch.device, small: bool, seconds: float) -> tuple[dict[str, Any], list[WantedRow]]:
    """Compare the trainer with a bare loop."""
    found: dict[str, Any] = {}
    rows: list[WantedRow] = []
    print(f"{'steps per second':<34}{'batch':>7}{'':>12}{'bare':>10}{'Trainer':>10}   of bare")
    for title, work in WORKS.items():
        name = title.rsplit(",", 1)[0]
        for place, batch in enumerate((2, 3, 4) if small else SIZES[title]):
            arrays = work.samples(batch * (1 if small else BATCHES))
            samples = InMemory(work.spec, arrays)
            for how, held in (("held", True), ("streamed", False)):
                epoch = bare(work, arrays, batch, device, held)
                repeats = 1 if small else 2
                plain = max(rate(epoch, seconds, device) for _ in range(repeats))
                epochs = max(1, round(seconds * plain * batch / len(samples)))
                ours = max(trained(work, samples, batch, device, epochs, device_resident=held) for _ in range(repeats))
                found[f"{name}, {batch}, {how}"] = {"bare": plain, "trainer": ours}
                mark = f"   wanted {WANTED}" if place == 1 else ""
                print(
                    f"{name:<34}{batch:>7}{how:>12}{plain:>10.0f}{ours:>10.0f}   {ours / plain:.2f}{mark}", flush=True
                )
                if place == 1:
                    value = {"value": ours / plain, "wanted": WANTED, "unit": "of a bare loop"}
                    rows.append(WantedRow(f"gpu/{name}/{how}", **value, beside={"bare": plain}))
    return found, rows


# --- precision


def precision(device: torch.device, small: bool, seconds: float) -> dict[str, Any]:
    """Train an FNO and a UNet in two precisions, and a small network with CUDA graphs."""
    width, side, batch = (4, 16, 2) if small else (32, 128, 16)
    grid = (side, side)
    works = {
        "FNO 2-D": Work(lambda: FNO(2, 1, 1, width=width, modes=4 if small else 16), grid, grid, batch, 8),
        "UNet 2-D": Work(lambda: UNet(2, 1, 1, width=width), grid, grid, batch, 8),
    }
    found: dict[str, Any] = {}
    print(f"\n{'samples per second':<34}{'float32':>12}{'bfloat16':>12}")
    for name, work in works.items():
        samples = InMemory(work.spec, work.samples(batch * (2 if small else work.batches)))
        rates = []
        for kind in ("float32", "bfloat16"):
            steps = trained(work, samples, batch, device, 1 if small else 6, precision=kind, device_resident=True)
            rates.append(steps * batch)
            found[f"{name}, {kind}"] = rates[-1]
        print(f"{name + f', {side} x {side}, batch {batch}':<34}{rates[0]:>12.0f}{rates[1]:>12.0f}", flush=True)
    title, work = next(iter(WORKS.items()))
    batch = 8 if small else 256
    samples = InMemory(work.spec, work.samples(batch * (2 if small else BATCHES)))
    ways: dict[str, Any] = {"as it is": False}
    if device.type == "cuda":
        ways |= {"cudagraphs": {"backend": "cudagraphs"}, "reduce-overhead": {"mode": "reduce-overhead"}}
    for name, compile in ways.items():
        with told(f"compile, {name}", found):
            how = {"compile": compile, "device_resident": True}
            found[f"compile, {name}"] = steps = trained(work, samples, batch, device, 1 if small else 40, **how)
            print(f"{title.rsplit(',', 1)[0] + ', ' + name:<34}{steps:>12.0f} steps per second", flush=True)
    return found


# --- prediction


def prediction(device: torch.device, small: bool, seconds: float) -> dict[str, Any]:
    """Predict one sample and many."""
    work, many = WORKS["MLP, beam, batch 64"], 16 if small else 8192
    arrays = work.samples(many)
    transforms = Transforms.normalization(InMemory(work.spec, arrays))
    network = MLP((208, 3), (208, 3), hidden=(256, 256, 256), residual=True)
    predictor = Predictor(network, work.spec, transforms=transforms).to(device).eval()
    found: dict[str, Any] = {}
    print(f"\n{'prediction of the beam network':<34}{'predictor':>12}{'alone':>12}")
    for count in (1, many):
        inputs = {"x": arrays["x"][:count]}
        tensor = torch.from_numpy(inputs["x"]).to(device)

        @torch.inference_mode()
        def alone(tensor: torch.Tensor = tensor) -> int:
            network(tensor).cpu()
            return len(tensor)

        def whole(inputs: Mapping[str, np.ndarray] = inputs, count: int = count) -> int:
            predictor.predict(inputs, batched=True)
            return count

        ours, plain = rate(whole, seconds, device), rate(alone, seconds, device)
        found[f"batch {count}"] = {"predictor": ours, "alone": plain}
        if count == 1:
            print(f"{'one sample, microseconds':<34}{1e6 / ours:>12.0f}{1e6 / plain:>12.0f}", flush=True)
        else:
            print(f"{f'batch of {count}, samples per second':<34}{ours:>12.0f}{plain:>12.0f}", flush=True)
    return found


# --- environment


def environment(device: torch.device, small: bool, seconds: float) -> dict[str, Any]:
    """Compute heated plates together, and train on their samples."""
    found: dict[str, Any] = {}
    print(f"\n{'heated plates, 32 x 32':<34}{'steps/s':>12}{'samples/s':>12}{'trained/s':>12}")
    for rows in (2,) if small else (64, 1024, 8192):
        plate = {"size": 8 if small else 32, "device": str(device)}
        simulation = HeatBatch(rows, **plate)
        simulation.reset(seed=0)
        actions = torch.zeros(rows, simulation.size, simulation.size, device=simulation.device)

        def steps(simulation: HeatBatch = simulation, actions: torch.Tensor = actions, rows: int = rows) -> int:
            for _ in range(20):
                simulation.step_rows(actions)
            return 20 * rows

        stepped = rate(steps, seconds, device)
        simulation.close()
        source = TensorSource("physgym/HeatBatch-v0", num_envs=rows, env_kwargs=plate)
        drawn = rate(lambda source=source: len(next(iter(source.draw(256).values()))), seconds, device)
        source.close()
        source = TensorSource("physgym/HeatBatch-v0", num_envs=rows, env_kwargs=plate)
        clock, batch = Clock(device), 8 if small else 256
        network = MLP.from_spec(source.spec, hidden=(64,))
        Trainer(
            network,
            source=source,
            produce="always",
            batches_per_epoch=2 if small else 50,
            epochs=2 if small else 4,
            batch_size=batch,
            device=device,
            callbacks=[clock],
            validation=None,
            progress=False,
        ).fit()
        learned = clock.steps * batch / clock.seconds
        found[f"{rows} plates"] = {"steps": stepped, "samples": drawn, "trained": learned}
        print(f"{rows:<34}{stepped:>12.0f}{drawn:>12.0f}{learned:>12.0f}", flush=True)
    return found


# --- processes


def processes(device: torch.device, small: bool, seconds: float) -> dict[str, Any]:
    """Train in a group of one process, then in two that share the device."""
    work, batch = WORKS["MLP, beam, batch 64"], 8 if small else 256
    samples = InMemory(work.spec, work.samples(batch * 4))
    backend = "nccl" if device.type == "cuda" else "gloo"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    dist.init_process_group(backend, init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        value = torch.ones(3, device=device)
        dist.all_reduce(value)
        assert value.tolist() == [1.0, 1.0, 1.0]
        alone = trained(work, samples, batch, device, 1 if small else 20)
    finally:
        dist.destroy_process_group()
    print(f"\n{backend}, one process: {alone:.0f} steps per second", flush=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__]
    command += ["--device", device.type, "--part", SHARED]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise RuntimeError(f"two processes: {done.stderr[-2000:]}")
    digests = {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("weights ")}
    assert len(digests) == 1, done.stdout
    print("gloo, two processes on one device: the same weights in both", flush=True)
    return {backend: alone}


def share(device: str) -> None:
    """Train as one of two processes, and print what the weights are."""
    work = WORKS["MLP, beam, batch 64"]
    samples = InMemory(work.spec, work.samples(32))
    run = Trainer(work.build(), samples, epochs=2, batch_size=8, device=device, validation=None, progress=False)
    run.fit()
    numbers = torch.cat([value.detach().double().flatten().cpu() for value in run.predictor.parameters()])
    print(f"weights of {run.ranks.rank} {numbers.sum().item().hex()}", flush=True)


# --- all of it


@contextlib.contextmanager
def told(part: str, found: dict[str, Any]) -> Iterator[None]:
    """Print what fails in a part, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a GPU is lent for minutes: the other parts are to be measured
        traceback.print_exc()
        print(f"{part}: {type(error).__name__}: {error}", flush=True)
        found.setdefault("failed", []).append(part)


PARTS = {
    "training": training,
    "precision": precision,
    "prediction": prediction,
    "environment": environment,
    "processes": processes,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="%(default)s")
    parser.add_argument("--seconds", type=float, help="per measurement, about; by default 0.5, on a CPU 0")
    parser.add_argument("--part", choices=[*PARTS, SHARED], help="only this one")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    add_rows_option(parser)
    given = parser.parse_args(argv)
    logging.getLogger("physgym").setLevel(logging.ERROR)
    if given.part == SHARED:
        share(given.device)
        return 0
    device, small = torch.device(given.device), given.device == "cpu"
    seconds = given.seconds if given.seconds is not None else 0.0 if small else 0.5
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores, small"
    print(f"torch {torch.__version__}, {what}\n")
    begun = time.monotonic()
    report: dict[str, Any] = {"torch": torch.__version__, "device": what}
    rows: list[WantedRow] = []
    wanted = [given.part] if given.part else ["training"] if given.rows else list(PARTS)
    if small and not given.part:
        wanted = [name for name in wanted if name != "processes"]  # which takes as long as all the others
    for name, part in PARTS.items():
        if name in wanted:
            if time.monotonic() - begun > LIMIT:
                print(f"\n{name} is left out: {LIMIT:.0f} s are over")
                report.setdefault("failed", []).append(name)
                continue
            with told(name, report):
                report[name] = part(device, small, seconds)
                if name == "training":
                    report[name], rows = report[name]
    print(f"\n{time.monotonic() - begun:.0f} s")
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    if given.rows and not small:
        write_rows(given.rows, rows)
    return 1 if "failed" in json.dumps(report) else 0


if __name__ == "__main__":
    sys.exit(main())
