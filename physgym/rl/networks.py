"""Networks of an agent: made for its spaces, with all weights in one vector, which makes a step of them cheap."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from physgym.checks import integer
from physgym.errors import ConfigError
from physgym.nn.devices import as_device
from physgym.nn.feeding import Feeding
from physgym.nn.registry import build, describe, network_class
from physgym.nn.transforms import Fields
from physgym.nn.wrapped import refuse_exported
from physgym.rl.agent import WEIGHTS
from physgym.sample import Field, SampleSpec
from physgym.spaces import Array, Leaf
from physgym.training.random_state import seed_of

NetworkChoice = str | Mapping[str, Any] | nn.Module | None

NO_NETWORK = "a network is {{'type': name, 'arguments': {{...}}}}, not {!r}"
# whose result depends on the batch, or on chance that nobody records
STOCHASTIC = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)


class FieldNetwork(nn.Module):
    """A network that is called with fields by name and gives one output.

    Args:
        module: The network itself.
        inputs: Layouts of the fields that feed it.
        output: Shape of the output, without the batch axis.
        device: Where it computes.

    Raises:
        ConfigError: The network does not take these fields, gives another output, or differs between training and
            evaluation.
    """

    def __init__(
        self, module: nn.Module, inputs: Sequence[Leaf], output: tuple[int, ...], device: torch.device
    ) -> None:
        super().__init__()
        refuse_exported(module)
        self.module = module.to(device)
        self.feeding = Feeding.of(module, [leaf.path for leaf in inputs])
        name = type(module).__name__
        if found := [type(part).__name__ for part in module.modules() if isinstance(part, STOCHASTIC)]:
            raise ConfigError(
                f"the network {name} has a {found[0]}, and that of an agent computes the same whether it acts or "
                "learns; leave it out"
            )
        zeros = {leaf.path: torch.from_numpy(np.zeros((2, *leaf.shape), leaf.dtype)).to(device) for leaf in inputs}
        try:
            with torch.no_grad():
                given = self(zeros)
        except (RuntimeError, TypeError, ValueError) as error:
            shapes = {leaf.path: leaf.shape for leaf in inputs}
            raise ConfigError(f"the network {name} does not take {shapes}: {error}") from error
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        if shape != (2, *output):
            raise ConfigError(f"the network {name} gives {shape} for a batch of 2, and the agent needs {(2, *output)}")

    def forward(self, fields: Fields) -> Any:
        """Evaluate the network."""
        return self.feeding(self.module, fields)


def make_networks(
    network: NetworkChoice,
    default: Mapping[str, Any],
    inputs: Sequence[Leaf],
    output: tuple[int, ...],
    *,
    seed: int,
    device: str,
    count: int = 1,
) -> list[FieldNetwork]:
    """Return new networks between fields, with initial weights drawn from a seed; no other generator moves.

    Args:
        network: A registered name or ``module:Class``, or ``{"type": name, "arguments": {...}}``, as in a
            configuration, or what `described_network` returned; or the one network itself; None for the default.
        default: In that form, for vectors; pictures have a `CNN` by default.
        inputs: Layouts of the fields that feed it.
        output: Shape of the output, without the batch axis.
        seed: Of the agent.
        device: Where they compute.
        count: How many.

    Raises:
        ConfigError: There is no such network, or it does not fit the fields.
    """
    if isinstance(network, nn.Module):
        if count > 1:
            raise ConfigError("the agent needs several networks: say of which class they are, in place of a module")
        return [FieldNetwork(network, inputs, output, as_device(device))]
    if network is None:
        pictures = any(leaf.dtype == np.uint8 and len(leaf.shape) > 1 for leaf in inputs)
        network = {"type": "CNN"} if pictures else default
    spec = SampleSpec(
        [Field(leaf.path, leaf.shape, leaf.dtype, "input") for leaf in inputs]
        + [Field("output", output, np.dtype("f4"), "target")]
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_of(seed, WEIGHTS, count))
        made = [_made(network, spec) for _ in range(count)]
    return [FieldNetwork(one, inputs, output, as_device(device)) for one in made]


def _made(network: str | Mapping[str, Any], spec: SampleSpec) -> nn.Module:
    section: Any = {"type": network} if isinstance(network, str) else network
    if isinstance(section, Mapping) and set(section) == {"module"}:
        return build(section["module"])
    if not isinstance(section, Mapping) or set(section) - {"type", "arguments"}:
        raise ConfigError(NO_NETWORK.format(network))
    name, arguments = section.get("type"), section.get("arguments") or {}
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise ConfigError(NO_NETWORK.format(network))
    found = network_class(name)
    try:
        made = found.from_spec(spec, **arguments) if hasattr(found, "from_spec") else found(**arguments)
    except TypeError as error:
        raise ConfigError(f"the network {name} does not take {arguments}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name} gives {made!r}, which is no torch.nn.Module")
    return made


def described_network(network: NetworkChoice) -> Any:
    """Return an argument for `make_networks` as JSON data."""
    if isinstance(network, nn.Module):
        return {"module": describe(network)}
    return dict(network) if isinstance(network, Mapping) else network


def one_vector(network: nn.Module) -> nn.Parameter:
    """Return the trained weights of a network as one vector, whose parts its parameters are from now on.

    So are their gradients parts of its gradient: an optimizer, a norm and a copy need one call.

    Raises:
        ConfigError: There are none, or of several dtypes.
    """
    parameters = trained(network)
    if not parameters or len({one.dtype for one in parameters}) > 1:
        dtypes = sorted({str(one.dtype) for one in parameters})
        raise ConfigError(f"the networks of an agent need trained weights of one dtype, and have {dtypes or 'none'}")
    vector = nn.Parameter(torch.cat([one.detach().flatten() for one in parameters]))
    vector.grad = torch.zeros_like(vector)
    start = 0
    for one in parameters:
        part = slice(start, start := start + one.numel())
        one.data, one.grad = vector.data[part].view(one.shape), vector.grad[part].view(one.shape)
    return vector


def trained(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network that are trained."""
    return [one for one in network.parameters() if one.requires_grad]


class Descent:
    """Steps of Adam on all weights of a network at once.

    Args:
        network: The network, whose weights become parts of one vector.
        lr: Learning rate.
        lr_steps: Steps in which it falls to its hundredth, on a straight line; None keeps it.
        clip_norm: Largest norm of the gradient; None does not look.

    Attributes:
        weights: The vector.
        steps: Steps so far.
    """

    def __init__(self, network: nn.Module, lr: float, lr_steps: int | None, clip_norm: float | None) -> None:
        self.weights, self.clip_norm = one_vector(network), clip_norm
        self.lr, self.lr_steps, self.steps = lr, lr_steps, 0
        self._parts = trained(network)
        self._optimizer = torch.optim.Adam([self.weights], lr=lr, fused=True)

    def step(self, loss: Tensor) -> None:
        """Go one step down a loss, a tensor of no axis; what else it depends on stays as it is."""
        gradient = cast(Tensor, self.weights.grad)
        gradient.zero_()
        loss.backward(inputs=self._parts)  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_((self.clip_norm / (norm + 1e-6)).clamp_(max=1.0))
        if self.lr_steps is not None:
            self._optimizer.param_groups[0]["lr"] = self.lr * max(0.01, 1 - self.steps / self.lr_steps)
        self._optimizer.step()
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the moments of the gradient and the steps so far, copied."""
        return {"steps": self.steps, "adam": copy.deepcopy(self._optimizer.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self._optimizer.load_state_dict(copy.deepcopy(state["adam"]))
        self.steps = integer("steps", state["steps"], 0)


class Follower:
    """A copy of networks that follows them slowly, as the target of a value has to.

    Args:
        networks: The networks.
        weights: Their weights as one vector.
        tau: Part of the way to them in a step; 1 copies them.
        every: Steps of the optimization between two of its own.
    """

    def __init__(self, networks: nn.Module, weights: nn.Parameter, tau: float, every: int) -> None:
        self.networks = copy.deepcopy(networks)
        self.leader, self.weights = weights.data, one_vector(self.networks).data
        self.networks.requires_grad_(False).zero_grad(set_to_none=True)
        self.tau, self.every = tau, every

    def follow(self, steps: int) -> None:
        """Go part of the way, if a number of steps of the optimization says so."""
        if steps % self.every == 0:
            self.weights.lerp_(self.leader, self.tau)


def tensors(fields: Mapping[str, Array], device: str) -> dict[str, Tensor]:
    """Return arrays as tensors on a device, without a copy where that is possible."""
    return {
        name: torch.from_numpy(value if value.flags.writeable else value.copy()).to(device)
        for name, value in fields.items()
    }


def weights(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network by name, copied."""
    return {name: one.detach().clone() for name, one in network.state_dict().items()}
