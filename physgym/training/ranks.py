"""`Ranks`: the processes that train one network together, started by ``torchrun``; or this one alone."""

from __future__ import annotations

import atexit
import logging
import os
import socket
import zlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch import distributed as dist

from physgym.errors import ConfigError
from physgym.nn.devices import AUTO, as_device
from physgym.progress import say
from physgym.training.launch import (
    meet,
    read_launch,
    read_local_rank,
    read_local_size,
    warn_of_separate_trainings,
)

TOGETHER = 32 << 20  # bytes of gradients in one message

log = logging.getLogger(__name__)


class Ranks:
    """Rank of this process among those that train together.

    Joins the process group of torch, or makes it where ``torchrun`` has set the environment for one. On one machine
    gloo's sockets are on loopback. The store by which torchrun's processes find each other is not: torch lets it listen
    on all interfaces, without a password, so keep its port behind a firewall.

    Gradients are averaged after the backward pass, not by torch's DistributedDataParallel: that takes every layer to
    have a gradient, every prediction to enter the loss, and knows no parameters of the loss.

    Args:
        device: Where to compute; of several GPUs each process takes its own for "cuda", and where there are fewer than
            processes some share one. "auto" is the best that this machine has.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        device: Where this process computes.

    Raises:
        ConfigError: The environment variables of a launcher are incomplete or wrong, or the others do not come.
        KeyboardInterrupt: Ctrl-C while waiting for them.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = as_device(device)
        if dist.is_available() and not dist.is_initialized():
            launch = read_launch()
            if launch.size > 1:
                _stay_here()
                backend = backend_of(self.device, read_local_size(), torch.cuda.device_count())
                meet(lambda: dist.init_process_group(backend), launch)
                atexit.register(_leave)
            else:
                warn_of_separate_trainings()
        together: bool = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        if self.size > 1 and str(self.device) == "cuda":
            self.device = torch.device("cuda", read_local_rank() % torch.cuda.device_count())
            torch.cuda.set_device(self.device)

    def say_device(self, wanted: torch.device | str) -> None:
        """Print which device was chosen, in the first process, where the choice was left open."""
        if wanted == AUTO and self.rank == 0:
            say(f"device: auto is {self.device}")

    def alike(self, tensors: Iterable[Tensor]) -> None:
        """Give parameters and buffers the values that they have in the first process.

        Raises:
            ConfigError: They have not the same shapes and dtypes in all processes.
        """
        if self.size == 1:
            return
        known = list({id(tensor): tensor for tensor in tensors}.values())
        described = repr([(tuple(tensor.shape), str(tensor.dtype)) for tensor in known])
        if self.differ(zlib.crc32(described.encode())):
            raise ConfigError(
                f"the {self.size} processes have networks of other shapes or dtypes; all of them must build the same "
                "one, from the same arguments"
            )
        self._take(known)

    def _take(self, tensors: Iterable[Tensor]) -> None:
        """Take over the values of the first process, bit for bit."""
        known = [tensor for tensor in tensors if tensor.layout is torch.strided and tensor.numel()]
        with torch.no_grad():
            for together in _groups(known):
                flat = torch.cat([tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in together])
                dist.broadcast(flat, 0)
                parts = torch.split(flat, [tensor.nbytes for tensor in together])
                for tensor, part in zip(together, parts, strict=True):
                    # a copy lies where the bytes of larger numbers must begin
                    tensor.copy_(part.clone().view(tensor.dtype).reshape(tensor.shape))

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their means over all processes.

        A parameter without a gradient in some of them counts as zero there; without one in all it stays without. So
        layers that a batch, or a loss, does not use are no fault, whichever they are.
        """
        if self.size == 1:
            return
        known = [parameter for parameter in parameters if parameter.requires_grad]
        if not known:
            return
        used = torch.tensor([parameter.grad is not None for parameter in known], dtype=torch.int32, device=self.device)
        dist.all_reduce(used)
        gradients = []
        for parameter, count in zip(known, used.tolist(), strict=True):
            if count and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        with torch.no_grad():
            for sparse in (gradient for gradient in gradients if gradient.layout is not torch.strided):
                dist.all_reduce(sparse)
                sparse /= self.size
            kinds: dict[torch.dtype, list[Tensor]] = {}
            for gradient in (gradient for gradient in gradients if gradient.layout is torch.strided):
                numbers = torch.view_as_real(gradient) if gradient.is_complex() else gradient
                kinds.setdefault(numbers.dtype, []).append(numbers)
            for together in (group for kind in kinds.values() for group in _groups(kind)):
                flat = torch.cat([numbers.reshape(-1) for numbers in together])
                dist.all_reduce(flat)
                flat /= self.size
                for numbers, part in zip(together, torch.split(flat, [n.numel() for n in together]), strict=True):
                    numbers.copy_(part.reshape(numbers.shape))

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether a process has set it."""
        if self.size == 1:
            return list(flags)
        total = self._sum([float(flag) for flag in flags])
        return [value > 0 for value in total]

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """Return the sums over all processes; each gives the same names."""
        if self.size == 1:
            return values
        names = sorted(values)
        return dict(zip(names, self._sum([values[name] for name in names]), strict=True))

    def means(self, values: dict[str, float]) -> dict[str, float]:
        """Return the means over all processes, which give the same names."""
        return values if self.size == 1 else {name: value / self.size for name, value in self.sums(values).items()}

    def differ(self, number: int) -> bool:
        """Return whether not all processes have the same number."""
        return self.size > 1 and self._sum([float(number)])[0] != number * self.size

    def share(self, text: str) -> str:
        """Return the text of the first process."""
        if self.size == 1:
            return text
        data = list(text.encode()) if self.rank == 0 else []
        length = int(self._sum([float(len(data))])[0])
        shared = torch.tensor(data or [0] * length, dtype=torch.uint8, device=self.device)
        dist.broadcast(shared, 0)
        return bytes(shared.tolist()).decode()

    def agree(self, module: nn.Module) -> None:
        """Take over the buffers of the first process: each has seen other samples, as in batch normalization."""
        if self.size > 1:
            self._take(module.buffers())

    def _sum(self, values: list[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        total: list[float] = tensor.tolist()
        return total


def backend_of(device: torch.device, processes: int, gpus: int) -> str:
    """Return by what processes exchange tensors: NCCL, which takes a GPU for each of them, else gloo.

    Args:
        device: Where they compute.
        processes: How many of them are on this machine.
        gpus: How many GPUs it has.
    """
    if device.type != "cuda":
        return "gloo"
    if processes > gpus:
        log.warning("%d processes share %d GPUs of this machine, and exchange gradients by gloo", processes, gpus)
        return "gloo"
    return "nccl"


def _groups(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Yield tensors in groups that fit into one message, of `TOGETHER` bytes unless it is a single tensor."""
    group: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if group and size + tensor.nbytes > TOGETHER:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.nbytes
    if group:
        yield group


def _stay_here() -> None:
    """Let gloo use loopback where all processes are on this machine, instead of what the host name stands for."""
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
