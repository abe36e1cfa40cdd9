"""`Optimization`: the loss of a prediction and the step that lowers it."""

from __future__ import annotations

import cmath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Self, SupportsFloat, get_args

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from physgym.checks import integer, one_of
from physgym.code.identity import own_code
from physgym.errors import CheckpointError, ConfigError
from physgym.nn.finiteness import NonFiniteFlag
from physgym.nn.joint_adam import JointAdam
from physgym.nn.padding import held_at_zero, padded_loss, sums
from physgym.nn.transforms import Fields

Loss = Callable[[Tensor, Tensor], Tensor]
Precision = Literal["float32", "bfloat16", "float16"]

LARGE = 1 << 15  # numbers of a tensor of the gradient from which on, in the mean, reading takes longer than calls

FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # whose fused step can leave the weights alone

KINDS: list[type | tuple[type, ...]] = [bool, (int, float, Tensor), str, Mapping, (list, tuple)]  # of equal meaning


class Optimization:
    """Computes the loss and optimizes a network.

    Override `transform_loss` for further terms and values to log, `compute_loss` for a loss of several fields
    together, and `step` for another way to use the gradient.

    Args:
        network: The module to optimize, or an iterable of parameters.
        loss: A loss class such as `torch.nn.MSELoss`, or a callable of (prediction, target), tensors of shape
            (batch, *shape), that returns a scalar. Losses of several predicted fields are added. Where values of a
            padded field are not there, both are zero; torch's losses of single values are then means over the values
            that are, of each sample, and `RelativeL2` is of these alone.
        optimizer: An optimizer class, a callable of parameters such as ``partial(AdamW, weight_decay=0.01)``, or an
            optimizer.
        lr: Learning rate; None leaves the optimizer's own.
        scheduler: A callable of the optimizer that returns a learning-rate scheduler, such as
            ``lambda o: CosineAnnealingLR(o, T_max=epochs)``.
        scheduler_every: Whether the scheduler advances at every epoch or every batch.
        clip_norm: Largest norm of the gradient; a longer one is shortened. None does not look.
        accumulate: In how many parts the gradient of a batch is computed, so that it takes less memory. The batch
            stays what it is: the result is that of one part, up to rounding.
        precision: In which the network computes: "bfloat16" and "float16" are mixed precision (torch.autocast; weights
            stay as they are), "float16" with a scaled loss.

    Attributes:
        idle: Whether the network has no parameters at all, so that there is nothing to optimize.
        present: For a loss of your own: flags of the values of the batch at hand that are there, by padded field,
            which broadcast to (batch, *shape); empty where none is padded.

    Raises:
        ConfigError: The arguments contradict each other.
    """

    def __init__(
        self,
        network: nn.Module | Iterable[nn.Parameter],
        *,
        loss: Callable[..., Any] = nn.MSELoss,
        optimizer: Callable[..., torch.optim.Optimizer] | torch.optim.Optimizer = torch.optim.Adam,
        lr: float | None = None,
        scheduler: Callable[[torch.optim.Optimizer], LRScheduler | ReduceLROnPlateau] | None = None,
        scheduler_every: Literal["epoch", "batch"] = "epoch",
        clip_norm: float | None = None,
        accumulate: int = 1,
        precision: Precision = "float32",
    ) -> None:
        if clip_norm is not None and clip_norm <= 0:
            raise ConfigError(f"clip_norm must be positive, not {clip_norm}; None turns it off")
        if scheduler_every not in ("epoch", "batch"):
            raise ConfigError(f'scheduler_every must be "epoch" or "batch", not {scheduler_every!r}')
        accumulate = integer("accumulate", accumulate, 1)
        one_of("precision", precision, get_args(Precision))
        if not callable(loss):
            raise ConfigError(f"loss must be a loss class or a function of (prediction, target), not {loss!r}")
        if not (scheduler is None or callable(scheduler)):
            raise ConfigError(f"scheduler must be a function of the optimizer that makes one, not {scheduler!r}")
        self.idle = False
        self.present: Fields = {}
        self.loss: Loss = loss() if isinstance(loss, type) else loss
        if accumulate > 1 and sums(self.loss):
            raise ConfigError(
                f"accumulate={accumulate} computes a batch in parts and takes their mean, and the loss is the sum over "
                "the batch; leave accumulate out, or take the mean (reduction='mean')"
            )
        if isinstance(optimizer, torch.optim.Optimizer):
            if lr is not None:
                raise ConfigError("lr goes with an optimizer class; this optimizer is built and has its own")
            self.optimizer = optimizer
        else:
            parameters = network.parameters() if isinstance(network, nn.Module) else network
            every = list(parameters)
            trained = [parameter for parameter in every if parameter.requires_grad]
            if every and not trained:
                raise ConfigError(
                    f"the network has no trainable parameter among {len(every)}; set requires_grad of what is to be "
                    "trained"
                )
            if not every:  # a network that only computes: the loop runs, and nothing changes
                trained = [nn.Parameter(torch.zeros(0))]
                self.idle = True
            try:
                self.optimizer = optimizer(trained) if lr is None else optimizer(trained, lr=lr)
            except (ValueError, TypeError) as error:
                raise ConfigError(f"the optimizer cannot be made with these arguments: {error}") from error
        patched = "step" in vars(self.optimizer)
        self.scheduler = None if scheduler is None else scheduler(self.optimizer)
        self.scheduler_every = scheduler_every
        if scheduler_every == "batch" and isinstance(self.scheduler, ReduceLROnPlateau):
            raise ConfigError('ReduceLROnPlateau looks at the loss of an epoch; leave scheduler_every at "epoch"')
        self.clip_norm, self.accumulate, self.precision = clip_norm, accumulate, precision
        if isinstance(self.optimizer, torch.optim.LBFGS):
            for what, argument, given in (
                ("the scale of the loss", 'precision="float16"', precision == "float16"),
                ("the norm to clip", "clip_norm", clip_norm is not None),
            ):
                if given:
                    raise ConfigError(
                        f"LBFGS computes gradients within its step, where {what} is not known; leave out {argument}, "
                        "or use another one"
                    )
        device = next((parameter.device.type for parameter in self.parameters), "cpu")
        self.scaler = torch.amp.GradScaler(device) if precision == "float16" else None
        self._nonfinite: NonFiniteFlag | None = None  # made with the first gradient
        self._joint = JointAdam(self.optimizer, scheduled=isinstance(self.scheduler, LRScheduler) and not patched)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Return what is optimized."""
        if self.idle:
            return []
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @property
    def gradients(self) -> list[Tensor]:
        """Return the gradients that there are."""
        every = (parameter.grad for group in self.optimizer.param_groups for parameter in group["params"])
        return [] if self.idle else [gradient for gradient in every if gradient is not None]

    @property
    def lr(self) -> float:
        """Return the learning rate, of the first parameter group, now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def to(self, device: torch.device | str) -> Self:
        """Move a loss that has tensors of its own to a device."""
        if isinstance(self.loss, nn.Module):
            self.loss.to(device)
        if self.scaler is not None:
            self.scaler = torch.amp.GradScaler(torch.device(device).type)
        return self

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Let the network compute in the chosen precision within the block."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, self.precision))

    def compute_loss(self, prediction: Fields, target: Fields) -> Tensor:
        """Return the loss of a batch: that of each predicted field against its target, added.

        Args:
            prediction: Predicted fields, shape (batch, *shape), after the transform before the loss; zero where nothing
                is there, see `present`.
            target: The loss's fields of the samples, in the same form.

        Returns:
            A scalar.

        Raises:
            ConfigError: No predicted field has a target, or shapes differ.
        """
        losses = []
        for name in prediction:
            if name not in target:
                continue
            wanted = target[name]
            # a loss that broadcasts would train on nonsense without a word; classes have one axis less
            as_numbers = wanted.is_floating_point() or wanted.ndim == prediction[name].ndim
            if as_numbers and wanted.shape != prediction[name].shape:
                got, want = tuple(prediction[name].shape), tuple(wanted.shape)
                raise ConfigError(
                    f"prediction and target of field {name!r} have shapes {got} and {want} in the loss; the transform "
                    "before_loss must bring them to the same shape"
                )
            if wanted.is_floating_point():
                wanted = wanted.to(prediction[name].dtype)
            there = self.present.get(name)
            sides = prediction[name], wanted
            losses.append(self.loss(*sides) if there is None else padded_loss(self.loss, *sides, there))
        if not losses:
            raise ConfigError(
                f"the loss gets the fields {list(target)}, none of which is among the predicted ones "
                f"{list(prediction)}. Add one to loss_fields, or override Optimization.compute_loss."
            )
        return sum(losses[1:], losses[0])

    def transform_loss(self, loss: Tensor, prediction: Fields, target: Fields) -> Mapping[str, Tensor] | Tensor:
        """Return named values of a batch: "loss" is minimized, the others are logged. A tensor is the loss alone.

        Override it to add a physical term, or to log one::

            def transform_loss(self, loss, prediction, target):
                energy = elastic_energy(prediction["displacement"])
                return {"loss": loss + 0.1 * energy, "energy": energy}

        Args:
            loss: What `compute_loss` returned.
            prediction: Predicted fields, as `compute_loss` got them.
            target: The loss's fields of the samples, in the same form.
        """
        return {"loss": loss}

    def losses(self, prediction: Fields, target: Fields, present: Fields | None = None) -> dict[str, Tensor]:
        """Return what to minimize, under the name "loss", and what else to log; scalars.

        Args:
            prediction: Predicted fields, shape (batch, *shape), after the transform before the loss.
            target: The loss's fields of the samples, in the same form.
            present: Flags of the values that are there, by padded field.

        Raises:
            ConfigError: `compute_loss` or `transform_loss` returned something else; the text names it. Or a padded
                field has another shape in the loss than its flags.
        """
        self.present = present or {}
        if self.present:
            prediction = held_at_zero(prediction, self.present, "prediction")
            target = held_at_zero(target, self.present, "target")
        loss: Any = self.compute_loss(prediction, target)
        self._check_loss("compute_loss", {"loss": loss})
        if type(self).transform_loss is Optimization.transform_loss:
            return {"loss": loss}
        returned: Any = self.transform_loss(loss, prediction, target)
        if isinstance(returned, Tensor):
            returned = {"loss": returned}
        if not isinstance(returned, Mapping):
            got = "None" if returned is None else f"a {type(returned).__name__}"
            raise ConfigError(
                f"{type(self).__name__}.transform_loss returned {got}; return the loss, or a dictionary of named "
                'values with the one to minimize: {"loss": loss, "energy": energy}'
            )
        values = dict(returned)
        self._check_loss("transform_loss", values)
        return values

    def _check_loss(self, method: str, values: Mapping[str, Any]) -> None:
        """Raise ConfigError unless all that a method returned are numbers, and the loss is a tensor."""
        where = f"{type(self).__name__}.{method}"
        for name, value in values.items():
            if isinstance(value, Tensor):
                if value.numel() != 1:
                    raise ConfigError(
                        f"the value {name!r} of the loss has shape {tuple(value.shape)}; it must be one number for the "
                        f"batch, such as the mean. {where} returned it"
                    )
            elif name != "loss" and not isinstance(value, SupportsFloat):
                raise ConfigError(
                    f"{where} returned {value!r} as {name!r}; values to log are numbers or tensors of one number"
                )
        loss = values.get("loss")
        if not isinstance(loss, Tensor):
            kind = "missing" if "loss" not in values else "None" if loss is None else f"a {type(loss).__name__}"
            raise ConfigError(
                f"the values {list(values)} of a batch need a 'loss' that is a tensor with a gradient; it is {kind}. "
                f"{where} returned it"
            )

    def zero_grad(self) -> None:
        """Forget the gradient of the last batch."""
        if type(self.optimizer).zero_grad is not torch.optim.Optimizer.zero_grad:
            self.optimizer.zero_grad()
            return
        for group in self.optimizer.param_groups:  # the same without the entry in a profile, at a tenth of its cost
            for parameter in group["params"]:
                parameter.grad = None

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss to that of the batch.

        Args:
            loss: A finite scalar: that of the batch, or its share of one that is computed in parts.
        """
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]

    def has_finite_gradient(self) -> bool:
        """Say whether the gradient of the batch is finite; one that is scaled is left to its scaler."""
        gradients = self.gradients
        if self.scaler is not None or not gradients:
            return True
        device = gradients[0].device
        if self._nonfinite is None or self._nonfinite.value.device != device:
            self._nonfinite = NonFiniteFlag(device)
        # where calls are cheap, and memory is not: a sum reads the numbers, the flag's operation writes them as well
        numbers = sum([gradient.numel() for gradient in gradients])
        large = numbers > LARGE * len(gradients) and device.type == "cpu"
        if not large and self._nonfinite.takes(gradients):
            self._nonfinite.note(gradients)
            return not self._nonfinite.read()  # waits for the device once
        return all(cmath.isfinite(gradient.sum().item()) or bool(gradient.isfinite().all()) for gradient in gradients)

    def step(self, closure: Callable[[], Tensor]) -> None:
        """Change the parameters by the gradient of a batch: clip it, one step of the optimizer.

        Override it for another way to use the gradient.

        Args:
            closure: Computes the gradient of the batch again and returns the loss; for optimizers that ask for it more
                than once, as `torch.optim.LBFGS` does.
        """
        if self.idle:
            if not isinstance(self.optimizer, torch.optim.LBFGS):  # which would want a gradient
                self.optimizer.step()  # so that a schedule goes on
            return
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        if isinstance(self.optimizer, torch.optim.LBFGS):
            self.optimizer.step(closure)  # type: ignore[no-untyped-call]
        elif self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        elif self._joint.optimizer is not self.optimizer or not self._joint.step():
            self.optimizer.step()

    def guard(self) -> bool:
        """Make the optimizer one that can leave the weights alone by itself, if it can be; return whether it is.

        Those of torch with a fused step can. It must have the gradient of a batch; LBFGS, scaled losses, gradients that
        are not dense, and classes that override `step`, `backward` or `has_finite_gradient`, are left as they are.
        """
        own = any(
            getattr(type(self), name) is not getattr(Optimization, name)
            for name in ("zero_grad", "backward", "has_finite_gradient", "step")
        )
        groups, tensors = self.optimizer.param_groups, [*self.parameters, *self.gradients]
        asked = any(g.get("foreach") or g.get("differentiable") or g.get("fused") is False for g in groups)
        if own or asked or self.idle or self.scaler is not None or type(self.optimizer) not in FUSED or not tensors:
            return False
        if not NonFiniteFlag(tensors[0].device).takes(tensors):
            return False
        for group in groups:
            group["fused"] = True
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                if "step" in state:  # counted where the weights are
                    state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=parameter.device)
        return True

    def guarded_step(self, flag: Tensor) -> None:
        """Change the parameters by the gradient of a batch, unless a flag says no; the device is not waited for.

        Args:
            flag: What decides, of `physgym.nn.finiteness.NonFiniteFlag`: 0, or 1 for a step that changes nothing.
        """
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        optimizer: Any = self.optimizer
        optimizer.grad_scale, optimizer.found_inf = None, flag  # as torch's GradScaler tells it
        try:
            optimizer.step()
        finally:
            del optimizer.grad_scale, optimizer.found_inf

    def end_batch(self) -> None:
        """Advance a scheduler that counts batches."""
        # also one of the user's own, which need not be derived from torch's
        if self.scheduler is not None and self.scheduler_every == "batch":
            self.scheduler.step()  # never a ReduceLROnPlateau, which looks at epochs

    def end_epoch(self, loss: float) -> None:
        """Advance a scheduler that counts epochs.

        Args:
            loss: Loss of the epoch: of validation where there is one.
        """
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None and self.scheduler_every == "epoch":
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes while training: of the optimizer, the scheduler, the scaler, and a loss with a state.

        Raises:
            CheckpointError: A scheduler has no `state_dict`.
        """
        state: dict[str, Any] = {"optimizer": self.optimizer.state_dict()}
        if self.scheduler is not None:
            if not all(callable(getattr(self.scheduler, name, None)) for name in ("state_dict", "load_state_dict")):
                raise CheckpointError(
                    f"the scheduler {_name(self.scheduler)} cannot be saved: it needs the methods state_dict and "
                    "load_state_dict, as those of torch.optim.lr_scheduler have them. Add them, or train without a "
                    "session"
                )
            state["scheduler"] = self.scheduler.state_dict()
        if self.scaler is not None:
            state["scaler"] = self.scaler.state_dict()
        if isinstance(self.loss, nn.Module) and (loss := self.loss.state_dict()):
            state["loss"] = loss
        return state

    @property
    def settings(self) -> dict[str, Any]:
        """Say how it was built, as far as data can tell: what must be the same to continue from a state."""
        known = {name: value for name, value in self.optimizer.defaults.items() if _is_plain(value)}
        return known | {
            "optimizer": _name(self.optimizer),
            "scheduler": None if self.scheduler is None else _name(self.scheduler),
            "scheduler_every": self.scheduler_every,
            "loss": _name(self.loss),
            **({"code": code} if (code := own_code(self.loss, type(self))) else {}),
            "clip_norm": self.clip_norm,
            "accumulate": self.accumulate,
            "precision": self.precision,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state.

        Raises:
            ConfigError: Another kind of optimization gave it.
        """
        have = self.state_dict()
        if set(state) != set(have):
            raise ConfigError(
                f"the state has {sorted(state)}, this optimization has {sorted(have)}; build it as when the state was "
                "saved"
            )
        _check_alike("the optimizer's groups", have["optimizer"]["param_groups"], state["optimizer"]["param_groups"])
        for part in ("scheduler", "scaler"):
            _check_alike(f"the {part}", have.get(part), state.get(part))
        moments = state["optimizer"]["state"]
        if not all(isinstance(name, int) and isinstance(value, dict) for name, value in moments.items()):
            raise ConfigError("the state of the optimizer is not given by the numbers of its parameters")
        try:
            self.optimizer.load_state_dict(dict(state["optimizer"]))
            if self.scheduler is not None:
                self.scheduler.load_state_dict(_like(have["scheduler"], state["scheduler"]))
            if self.scaler is not None:
                self.scaler.load_state_dict(dict(state["scaler"]))
            if isinstance(self.loss, nn.Module) and "loss" in state:
                self.loss.load_state_dict(state["loss"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"the state is not that of this optimizer, scheduler and loss: {error}") from error


def _name(thing: Any) -> str:
    """Return the name of a function, or of the class of an object."""
    return str(getattr(thing, "__qualname__", type(thing).__qualname__))


def _is_plain(value: Any) -> bool:
    return (
        value is None
        or isinstance(value, (bool, int, float, str))
        or (isinstance(value, (tuple, list)) and all(map(_is_plain, value)))
    )


def _check_alike(path: str, now: Any, then: Any) -> None:
    """Raise ConfigError where a state has another kind of value than there is now; what is not in both may differ."""
    if now is None:
        return
    if isinstance(now, Mapping) and isinstance(then, Mapping):
        for name in now.keys() & then.keys():
            _check_alike(f"{path}, {name}", now[name], then[name])
    elif (
        isinstance(now, (list, tuple)) and isinstance(then, type(now)) and (type(now) is list or len(now) == len(then))
    ):
        for index, (one, other) in enumerate(zip(now, then, strict=False)):
            _check_alike(f"{path}, {index}", one, other)
    else:
        kinds = next((kinds for kinds in KINDS if isinstance(now, kinds)), object)
        if isinstance(now, tuple) or not isinstance(then, kinds) or isinstance(now, bool) != isinstance(then, bool):
            raise ConfigError(f"{path} is {str(then)[:100]} in the state, where this optimization has {now}")


def _like(now: Any, then: Any) -> Any:
    """Return a state with the counters of the present one, such as milestones, which data has as dictionaries."""
    if isinstance(now, Counter):
        return Counter(then)
    if isinstance(now, Mapping):
        return {name: _like(now.get(name), value) for name, value in then.items()}
    if isinstance(now, list) and len(now) == len(then):
        return [_like(one, other) for one, other in zip(now, then, strict=True)]
    return then
