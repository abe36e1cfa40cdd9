"""`Ranks`: the processes that train one network together, started by ``torchrun``; or this one alone."""

from __future__ import annotations

import atexit
import os
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from physgym.errors import ConfigError


class Ranks:
    """This process among those that train together.

    Joins the process group of torch, or makes it where ``torchrun`` has set the environment for one. On one machine
    gloo's sockets are on loopback. The store by which torchrun's processes find each other is not: torch lets it listen
    on all interfaces, without a password, so keep its port behind a firewall.

    Args:
        device: Where to compute; of several GPUs each process takes its own for "cuda".

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
        device: Where this process computes.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        if dist.is_available() and not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _stay_here()
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
            atexit.register(_leave)
        together: bool = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if together else (0, 1)
        if self.size > 1 and str(self.device) == "cuda":
            self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
            torch.cuda.set_device(self.device)

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module whose call the gradients of all processes are averaged for; alone the module itself.

        Raises:
            ConfigError: torch refuses to.
        """
        if self.size == 1 or not any(parameter.requires_grad for parameter in module.parameters()):
            return module
        try:
            return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"the network cannot be trained by {self.size} processes together: {error}") from error

    def apart(self, module: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
        """Gradients inside are not averaged yet, unless they are the last of the batch."""
        return nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()

    def any(self, *flags: bool) -> list[bool]:
        """For each flag whether a process has set it."""
        if self.size == 1:
            return list(flags)
        total = self._sum([float(flag) for flag in flags])
        return [value > 0 for value in total]

    def sums(self, values: dict[str, float]) -> dict[str, float]:
        """The sums over all processes; each gives the same names."""
        if self.size == 1:
            return values
        names = sorted(values)
        return dict(zip(names, self._sum([values[name] for name in names]), strict=True))

    def means(self, values: dict[str, float]) -> dict[str, float]:
        """The means over all processes, which give the same names."""
        return values if self.size == 1 else {name: value / self.size for name, value in self.sums(values).items()}

    def differ(self, number: int) -> bool:
        """Whether not all processes have the same number."""
        return self.size > 1 and self._sum([float(number)])[0] != number * self.size

    def share(self, text: str) -> str:
        """The text of the first process."""
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
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def _sum(self, values: list[float]) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        total: list[float] = tensor.tolist()
        return total


def _stay_here() -> None:
    """Let gloo use loopback where all processes are on this machine, instead of what the host name stands for."""
    if os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]:
        loopback = [name for _, name in socket.if_nameindex() if name in ("lo", "lo0")]
        if loopback:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
