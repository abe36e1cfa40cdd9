"""`JointAdam`: the step of torch's Adam and AdamW on a CPU, of small tensors together, with the bits of single ones.

A step of Adam takes eight operations for each tensor, and of small tensors the calls are what takes time: with a layer
of 32 units they are a third of a training step. Each operation is one of single numbers, whose result does not depend
on where they lie. So the moments of small tensors lie one behind the other here, and six of the operations are made
for all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

ADAM = (torch.optim.Adam, torch.optim.AdamW)
TOGETHER = (1 << 15) - 1  # numbers in one operation: torch would divide more among threads, which wait for each other
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")  # of a parameter in the state; the last one with AMSGrad alone
OTHERWISE = ("fused", "capturable", "differentiable")  # options of a group that make another step of it

Known = Mapping[Tensor, dict[str, Tensor]]  # of an optimizer, by parameter

flattened: Callable[[Sequence[Tensor]], Tensor] = _flatten_dense_tensors  # the numbers of tensors, shape (n,)


class JointAdam:
    """The step of an optimizer, as long as that is a plain one of Adam.

    The state of the optimizer stays complete, so that it can make any step itself.

    Args:
        optimizer: The optimizer.
        scheduled: Whether a scheduler of torch has put a method around its `step`, to note that it was called.

    Attributes:
        optimizer: The same.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, *, scheduled: bool) -> None:
        self.optimizer = optimizer
        self._wrapper = vars(optimizer).get("step") if scheduled else None
        self._groups: dict[int, _Group] = {}  # by their number

    @torch.no_grad()
    def step(self) -> bool:
        """Make a step and return True; or return False where the optimizer has to make it, and change nothing."""
        optimizer: Any = self.optimizer
        if type(optimizer) not in ADAM or vars(optimizer).get("step") is not self._wrapper or _is_heard(optimizer):
            return False
        found = []
        for number, options in enumerate(optimizer.param_groups):
            parameters = [parameter for parameter in options["params"] if parameter.grad is not None]
            if not parameters:
                continue
            if not _is_plain(options):
                return False
            moments = MOMENTS if options["amsgrad"] else MOMENTS[:2]
            group = self._groups.get(number)
            if group is None or group.moments != moments or not group.is_of(parameters, optimizer.state):
                self._groups.pop(number, None)
                if not _fit(parameters, optimizer.state, moments):
                    return False
                group = self._groups[number] = _Group(parameters, optimizer.state, moments)
            if (gradients := group.gradients()) is None:
                return False
            found.append((group, options, gradients))
        for group, options, gradients in found:
            # which versions of torch before 2.6 do not say
            decoupled = options.get("decoupled_weight_decay", type(optimizer) is torch.optim.AdamW)
            group.step(gradients, options, decoupled=decoupled)
        if self._wrapper is not None:
            optimizer._opt_called = True
        return True


def _is_heard(optimizer: Any) -> bool:
    """Return whether somebody wants to hear of each step."""
    own = optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks
    return bool(own or _global_optimizer_pre_hooks or _global_optimizer_post_hooks)


def _is_plain(options: Mapping[str, Any]) -> bool:
    """Return whether the options of a group are those of a step that is made here."""
    if options["foreach"] is not None or any(options[name] for name in OTHERWISE):
        return False
    return all(isinstance(number, float) for number in (options["lr"], *options["betas"]))


def _fit(parameters: Sequence[Tensor], state: Known, moments: Sequence[str]) -> bool:
    """Return whether parameters and their moments are plain numbers, after equally many steps."""
    dtype, counts = parameters[0].dtype, set()
    for parameter in parameters:
        known = state.get(parameter)
        if known is None or known.keys() != {"step", *moments} or known["step"].dtype is not torch.float32:
            return False  # at the first step there is nothing yet
        numbers = (parameter, *(known[name] for name in moments))
        if not all(one.is_cpu and one.layout is torch.strided for one in (known["step"], *numbers)):
            return False
        if any(one.dtype is not dtype or one.shape != parameter.shape for one in numbers):
            return False
        counts.add(known["step"].item())
    return dtype in (torch.float32, torch.float64) and len(counts) == 1


class _Group:
    """The parameters of a group that have a gradient, as far as they are small in packs.

    Args:
        parameters: These parameters.
        state: That of the optimizer; gets views of the packs in place of its tensors, with the same numbers.
        moments: The names of the moments that a step takes.

    Attributes:
        moments: The same.
    """

    def __init__(self, parameters: Sequence[Tensor], state: Known, moments: Sequence[str]) -> None:
        self.moments = moments
        self._parameters = list(parameters)
        self._known = [state[parameter] for parameter in parameters]
        self._steps = torch.stack([known["step"] for known in self._known])
        for known, step in zip(self._known, self._steps.unbind(), strict=True):
            known["step"] = step
        self._first = self._steps[0]
        packs = _packs(parameters)
        self._packs = [_Pack(numbers, self._known) for numbers in packs if len(numbers) > 1]
        self._single = [numbers[0] for numbers in packs if len(numbers) == 1]
        self._values = [tuple(known.values()) for known in self._known]
        self._dtype = self._known[0]["exp_avg"].dtype

    def is_of(self, parameters: Sequence[Tensor], state: Known) -> bool:
        """Return whether these are its parameters, and the state is still what it was made of."""
        if len(parameters) != len(self._parameters):
            return False
        for parameter, mine, values in zip(parameters, self._parameters, self._values, strict=True):
            if parameter is not mine or len(known := state[parameter]) != len(values):
                return False
            for one, other in zip(known.values(), values, strict=True):
                if one is not other:
                    return False
        counts = self._steps.tolist()
        return counts.count(counts[0]) == len(counts)

    def gradients(self) -> list[Tensor] | None:
        """Return the gradients; None where one has not plain numbers of the dtype of its parameter."""
        dtype, found = self._dtype, []
        for parameter in self._parameters:
            gradient: Any = parameter.grad
            if gradient.dtype is not dtype or gradient.layout is not torch.strided or not gradient.is_cpu:
                return None
            found.append(gradient)
        return found

    def step(self, gradients: list[Tensor], options: Mapping[str, Any], *, decoupled: bool) -> None:
        """Change the parameters, as `torch.optim.adam` does it for one after the other.

        Args:
            gradients: Their gradients.
            options: The options of the group.
            decoupled: Whether weights decay by themselves, and not by the gradient.
        """
        (beta1, beta2), lr, eps, decay = (options[name] for name in ("betas", "lr", "eps", "weight_decay"))
        if options["maximize"]:
            gradients = [-gradient for gradient in gradients]
        if decay and decoupled:
            torch._foreach_mul_(self._parameters, 1 - lr * decay)
        elif decay:
            gradients = list(torch._foreach_add(gradients, self._parameters, alpha=decay))
        self._steps.add_(1)
        count = self._first.item()
        size, root = lr / (1 - beta1**count), (1 - beta2**count) ** 0.5
        for pack in self._packs:
            gradient = flattened([gradients[number] for number in pack.numbers])
            pack.means.lerp_(gradient, 1 - beta1)
            pack.squares.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            squares = pack.squares
            if pack.largest is not None:
                squares = torch.maximum(pack.largest, squares, out=pack.largest)
            torch.sqrt(squares, out=pack.divisors).div_(root).add_(eps)
            parameters = [self._parameters[number] for number in pack.numbers]
            torch._foreach_addcdiv_(parameters, pack.means_of, pack.divisors_of, -size)
        for number in self._single:
            known, gradient = self._known[number], gradients[number]
            means = known["exp_avg"].lerp_(gradient, 1 - beta1)
            squares = known["exp_avg_sq"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            if (largest := known.get("max_exp_avg_sq")) is not None:
                squares = torch.maximum(largest, squares, out=largest)
            self._parameters[number].addcdiv_(means, squares.sqrt().div_(root).add_(eps), value=-size)


class _Pack:
    """Small tensors whose moments lie one behind the other.

    Args:
        numbers: The numbers of the tensors in their group.
        known: What the optimizer knows of each tensor of the group; gets views of the pack.

    Attributes:
        numbers: The same.
        means: First moments, shape (n,).
        squares: Second moments, shape (n,).
        largest: The largest of these so far, shape (n,); None without AMSGrad.
        divisors: Memory for what the step is divided by, shape (n,).
        means_of: The first moments of each tensor.
        divisors_of: The divisors of each tensor.
    """

    def __init__(self, numbers: list[int], known: list[dict[str, Tensor]]) -> None:
        self.numbers, like = numbers, [known[number]["exp_avg"] for number in numbers]
        flat = {name: flattened([known[n][name] for n in numbers]) for name in MOMENTS if name in known[0]}
        self.means, self.squares, self.largest = flat[MOMENTS[0]], flat[MOMENTS[1]], flat.get(MOMENTS[2])
        self.divisors = torch.empty_like(self.means)
        self.means_of, self.divisors_of = (_views(numbers, like) for numbers in (self.means, self.divisors))
        for name, together in flat.items():
            for number, part in zip(numbers, _views(together, like), strict=True):
                known[number][name] = part


def _packs(parameters: Sequence[Tensor]) -> list[list[int]]:
    """Return the numbers of the tensors that are stepped together; a large one is alone."""
    packs: list[list[int]] = []
    filled = TOGETHER + 1  # of the last pack: nothing fits into one that is not there
    for number, parameter in enumerate(parameters):
        size = parameter.numel()
        if size > TOGETHER:
            packs.insert(0, [number])
            continue
        if filled + size > TOGETHER:
            packs.append([])
            filled = 0
        packs[-1].append(number)
        filled += size
    return packs


def _views(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the parts of an array, in the shapes of tensors."""
    parts = torch.split(flat, [tensor.numel() for tensor in like])
    return [part.view(tensor.shape) for part, tensor in zip(parts, like, strict=True)]
