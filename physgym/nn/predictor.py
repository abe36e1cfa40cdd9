"""`Predictor`: a network with the names of its fields and its transforms, from physical units to physical units."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from physgym.casting import FIELD, as_arrays, as_field
from physgym.errors import ConfigError, SampleError
from physgym.feedback import Feedback
from physgym.loading.reused_memory import ALIGNED
from physgym.nn.changes import Changes, check_changes
from physgym.nn.feeding import Feeding, field_aliases
from physgym.nn.finiteness import check_cast, check_finite
from physgym.nn.transforms import Fields, Transforms, checked_fields
from physgym.nn.wrapped import refuse_exported, unwrapped
from physgym.sample import Field, Sample, SampleSpec
from physgym.step_fields import fields_for, network_feedback

if TYPE_CHECKING:
    from physgym.data.learned import Learned

WHOSE = "the network"

Around = Callable[["Predictor"], AbstractContextManager[None]]

_around: list[Around] = [lambda _: nullcontext()]


@runtime_checkable
class FieldAware(Protocol):
    """A network that takes over from the fields what was left open when it was made, such as what a residual adds."""

    def resolve(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> None: ...  # noqa: D102

    def summary(self, spec: SampleSpec, inputs: Sequence[str], outputs: Sequence[str]) -> str: ...  # noqa: D102


class Predictor(nn.Module):
    """A network that knows which fields feed it, which it predicts, and how to transform them.

    The module's own call works on tensors and returns the network's units, for training; `predict` takes and returns
    arrays in physical units, for use.

    Args:
        network: Any module; called with one tensor of shape (batch, *shape) per input field, it returns a tensor of
            shape (batch, *shape). Of several output fields it returns a tuple, or a dictionary or a named tuple by the
            names of the fields. Where the parameters of its `forward` are names of fields, fields reach it by name,
            else in the order of `inputs`.
        spec: Fields of the samples; those that are not needed are ignored.
        inputs: Names of the fields that feed the network; by default those of role "input", in the order of `spec`.
        outputs: Names of the fields that it predicts; by default those of role "target".
        transforms: What happens around the network; nothing by default.
        changes: The outputs that it predicts as changes of its inputs; none by default. They become outputs in
            physical units before the transform before_apply.
        feeding: Which field reaches which argument, where it is not to follow from the network: that of a checkpoint.

    Attributes:
        spec: The input and output fields.
        inputs: Names of the input fields.
        outputs: Names of the output fields.
        feeding: Which field reaches which argument.
        takes_nonfinite: Whether the network knows what to do with NaN and infinity in its inputs: it has an attribute
            ``takes_nonfinite = True``. For others they are an error, but for what the mask of a padded field takes out.
        recurrent: Whether the network remembers earlier steps: it has an attribute ``recurrent = True``, and its
            `forward` takes ``memory=None`` too and returns (outputs, memory). None starts again.
        learned: What the network was trained on, as far as the checkpoint that it was loaded from, or the `Trainer`
            that trained it here, says; None for a network of which nothing is known. A `Runner` compares it.
        chooses_threads: Whether predictions of single samples are made in one thread from the third one on, where that
            gives the same bits and is measured to be as fast; outside of them torch has its own number of threads.

    Raises:
        ConfigError: A field is unknown, torch.export made the network, parameters of `forward` are names of some input
            fields but not of all, or the network does not fit the fields' shapes; it is tried on zeros.
    """

    feeding: Feeding
    learned: Learned | None = None
    chooses_threads: bool = True

    def __init__(
        self,
        network: nn.Module,
        spec: SampleSpec,
        *,
        inputs: Sequence[str] | None = None,
        outputs: Sequence[str] | None = None,
        transforms: Transforms | None = None,
        changes: Changes | None = None,
        feeding: Feeding | None = None,
    ) -> None:
        super().__init__()
        refuse_exported(network)
        spec = fields_for(spec, outputs)
        self.inputs, self.outputs = field_names(spec, inputs, outputs)
        self.spec = SampleSpec([field for field in spec.values() if field.name in {*self.inputs, *self.outputs}])
        self.network = network
        self.recurrent = getattr(unwrapped(network), "recurrent", False) is True  # which may be the name of a layer
        self.transforms = Transforms() if transforms is None else transforms
        self.changes = changes
        inner = unwrapped(network)
        self.takes_nonfinite = getattr(inner, "takes_nonfinite", False) is True
        if isinstance(inner, FieldAware):
            inner.resolve(self.spec, self.inputs, self.outputs)
        if changes is not None:
            check_changes(changes, self.inputs, self.outputs, inner, self.transforms)
        self._try_on_zeros(feeding, [name for name in spec if name not in self.inputs])

    def on(self, spec: SampleSpec) -> Self:
        """Return this network as a predictor of fields of other shapes, such as those of a finer grid.

        Both have the same weights and transforms. The network takes other shapes if it is made for them, as an `FNO` or
        a `UNet` is; its normalization if it was made with ``pointwise_mean=False``.

        Args:
            spec: Fields of the other samples, with the same names and units.

        Raises:
            ConfigError: A field is missing or has another unit, or the network or a transform does not take its shape.
        """
        field_names(spec, self.inputs, self.outputs)
        for name, own in self.spec.items():
            if spec[name].unit != own.unit:
                raise ConfigError(
                    f"the network knows field {name!r} in {own.unit!r}, the samples have it in {spec[name].unit!r}; "
                    "convert them"
                )
        names = {"inputs": self.inputs, "outputs": self.outputs}
        other = type(self)(
            self.network, spec, **names, transforms=self.transforms, changes=self.changes, feeding=self.feeding
        )
        other.learned = self.learned
        return other

    @property
    def summary(self) -> str:
        """Say for people what was built: the network, its fields, and how they are fed."""
        inner = unwrapped(self.network)
        if isinstance(inner, FieldAware):
            text = inner.summary(self.spec, self.inputs, self.outputs)
        else:
            fed, given = (
                ", ".join(f"{name} {self.spec[name].shape}" for name in names) for names in (self.inputs, self.outputs)
            )
            text = f"{type(inner).__name__}: {fed} to {given}"
        text = f"{text}; {self.feeding}" if len(self.feeding.fields) > 1 else text
        return text if self.changes is None else f"{text}; predicts changes: {self.changes}"

    @property
    def feedback(self) -> Feedback:
        """Return which outputs are which inputs of the next step; empty where nothing is declared."""
        return network_feedback(self.spec, self.inputs, self.outputs)

    @property
    def device(self) -> torch.device:
        """Return the device of the weights; the CPU if there are none."""
        first = _first_parameter(self.network)
        return torch.device("cpu") if first is None else first.device

    @property
    def dtype(self) -> torch.dtype:
        """Return the floating-point dtype in which the network computes: that of its weights."""
        first = _first_parameter(self.network, floating=True)
        return torch.get_default_dtype() if first is None else first.dtype

    @property
    def num_parameters(self) -> int:
        """Return the number of trainable numbers in the network."""
        return sum(tensor.numel() for tensor in self.network.parameters() if tensor.requires_grad)

    def tensors(self, batch: Mapping[str, Any], device: torch.device | None = None) -> Fields:
        """Return arrays as tensors on the network's device, where torch itself would lay them.

        Args:
            batch: Arrays or tensors by name.
            device: The network's device, where it is known; finding it takes as long as a small operation.

        Arrays of the fields of `spec` get the dtype that is declared there, by the rule of `physgym.casting`; others,
        and tensors, keep their own.

        An array may begin anywhere in memory, and for most beginnings a product of small matrices differs in its last
        bit: what is predicted and learned would depend on where an array happens to lie.

        Raises:
            SampleError: Values of an array are missing or no numbers, or the declared dtype cannot hold them.
        """
        given = {n: v if isinstance(v, Tensor) else self._array(n, v) for n, v in batch.items()}
        return self._tensors(given, self.device if device is None else device)

    def _array(self, name: str, value: Any) -> Any:
        """Return an array of the dtype that is declared for a field, or of its own if none is."""
        if name in self.spec:
            return as_field(value, self.spec[name].dtype, name, WHOSE)
        array = as_arrays({name: value}, WHOSE)[name]
        if array.dtype.kind not in "biufc":
            error = f"has dtype {array.dtype}, of which a network is fed nothing"
            raise SampleError(FIELD.format(name=name, whose=WHOSE, error=error))
        return array

    @staticmethod
    def _tensors(batch: Mapping[str, Any], device: torch.device) -> Fields:
        tensors, here = {}, device.type == "cpu"
        for name, value in batch.items():  # comparing is a fifth of what it costs to ask torch for a move
            tensor = value if isinstance(value, Tensor) else to_tensor(value)
            if tensor.device != device:
                tensor = tensor.to(device, non_blocking=True)
            tensors[name] = tensor.clone() if here and tensor.data_ptr() % ALIGNED else tensor
        return tensors

    def forward(self, fields: Fields) -> Fields:
        """Predict in the network's units; differentiable.

        Args:
            fields: At least the input fields, in physical units, shape (batch, *shape).

        Returns:
            The output fields, shape (batch, *shape), in the dtype of the weights.

        Raises:
            ConfigError: The network returned another number of outputs, or such of other names.
        """
        return self.advance(fields)[0]

    def advance(self, fields: Fields, memory: Any = None) -> tuple[Fields, Any]:
        """Predict in the network's units, with what a recurrent network remembers; differentiable.

        Args:
            fields: At least the input fields, in physical units, shape (batch, *shape).
            memory: What a recurrent network has returned at the step before; None at the first one.

        Returns:
            The output fields, shape (batch, *shape), in the dtype of the weights, and what the network remembers then;
            None for one that is not recurrent.

        Raises:
            ConfigError: As for `forward`; or a recurrent network returns no pair.
        """
        fed, modules = self._fed(fields), self._modules  # in which looking takes a tenth of what an attribute does
        network: Any = modules["network"]
        first = _first_parameter(network, floating=True)
        dtype = torch.get_default_dtype() if first is None else first.dtype
        # integers pass as they are: they may be indices into an embedding
        fed = {
            name: value.to(dtype) if value.dtype is not dtype and value.is_floating_point() else value
            for name, value in fed.items()
        }
        if not self.recurrent:
            return self._outputs(self.feeding(network, fed)), None
        result = self.feeding(network, fed, memory=memory)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise ConfigError(
                f"{self._name} is recurrent, and returned a {type(result).__name__} in place of a pair: (outputs, "
                "memory)"
            )
        return self._outputs(result[0]), result[1]

    def _outputs(self, result: Any) -> Fields:
        """Return what a network returned, by the names of its output fields."""
        if isinstance(result, Tensor) and len(self.outputs) == 1:
            return {self.outputs[0]: result}
        if isinstance(result, Mapping):
            return self._fields_by_name(result, "a dictionary")
        if isinstance(result, tuple) and (names := getattr(result, "_fields", None)):
            kind = f"the named tuple {type(result).__name__}"
            return self._fields_by_name(dict(zip(names, result, strict=True)), kind)
        if isinstance(result, (tuple, list)) and len(result) == len(self.outputs):
            return dict(zip(self.outputs, result, strict=True))
        got = f"{len(result)} outputs" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
        raise ConfigError(
            f"{self._name} returned {got} for the fields {list(self.outputs)}. Return a tensor for one field, a tuple "
            "for several."
        )

    def physical(self, fields: Fields) -> Fields:
        """Predict in physical units; differentiable.

        Args:
            fields: At least the input fields, in physical units, shape (batch, *shape).

        Returns:
            The output fields in physical units, shape (batch, *shape), in the dtype of the weights.

        Raises:
            ConfigError: As for `forward`, or the transform before_apply gives no output field.
        """
        return self.applied(self(fields), fields)

    def applied(self, prediction: Fields, fields: Fields) -> Fields:
        """Return a prediction in units of the network as one in physical units; differentiable.

        Args:
            prediction: The output fields as `forward` gives them, shape (batch, *shape).
            fields: The fields that fed the network, in physical units.

        Raises:
            ConfigError: The transform before_apply gives no output field.
        """
        if self.changes is not None:
            prediction = self.changes.applied(prediction, fields)
        transform = self.transforms.before_apply
        return checked_fields(transform(prediction), "before_apply", transform, self.outputs)

    def for_loss(self, prediction: Fields, target: Fields, fields: Fields) -> tuple[Fields, Fields]:
        """Return what prediction and target are in the loss.

        Args:
            prediction: The output fields as `forward` gives them, shape (batch, *shape).
            target: The fields that the loss gets from the samples, in physical units.
            fields: The fields that fed the network, in physical units.

        Raises:
            ConfigError: The transform before_loss returned something else.
        """
        if self.changes is not None:
            prediction, target = self.changes.for_loss(prediction, target, fields)
        transforms: Any = self._modules["transforms"]
        pair: tuple[Fields, Fields] = transforms.for_loss(prediction, target)
        return pair

    @property
    def fitted(self) -> bool:
        """Say whether every normalization, and the units of changes, have moments."""
        return self.transforms.fitted and (self.changes is None or self.changes.fitted)

    def _fields_by_name(self, result: Mapping[str, Any], kind: str) -> Fields:
        """Return the output fields from outputs that have names, which are those of the fields."""
        aliases = field_aliases(self.outputs)
        named = {aliases.get(name, name): value for name, value in result.items()}
        if set(named) == set(self.outputs) and len(named) == len(result):
            return {name: named[name] for name in self.outputs}
        extra, missing = ([n for n in a if n not in b] for a, b in ((named, self.outputs), (self.outputs, named)))
        texts = (f"{extra} are none of them" if extra else "", f"{missing} are missing" if missing else "")
        problem = " and ".join(text for text in texts if text) or "two of them name one field"
        names = list(self.outputs)
        text = (
            f"{self._name} returned {kind} of {list(result)} for the fields {names}: {problem}. Name each output "
            "after its field, or return a plain tuple in the order of `outputs`"
        )
        raise ConfigError(text)

    def _fed(self, fields: Mapping[str, Any]) -> Fields:
        """Return what the network is fed: the input fields, and what else their transform makes of them."""
        transforms: Any = self._modules["transforms"]
        transform = transforms._modules["before_prediction"]
        return checked_fields(transform({name: fields[name] for name in self.inputs}), "before_prediction", transform)

    def predict(self, sample: Mapping[str, Any], *, batched: bool = False, finite: bool = True) -> Sample:
        """Predict in physical units.

        Args:
            sample: At least the input fields in physical units; shape of the field, or (batch, *shape) if `batched`.
            batched: Whether there is a batch axis.
            finite: Whether NaN or infinity in an input is an error; if not, the network is fed with it.

        Returns:
            The output fields in physical units, with the declared dtypes, and a batch axis if the input has one.

        Raises:
            SampleError: A field or some of its values are missing or not finite, it has not the declared shape, the
                declared dtype cannot hold its values (or that of the network: they become infinite). Or the fields of a
                batch hold different numbers of samples, or the network gives an output another shape than it gave when
                the predictor was made.
        """
        return self.predict_from(sample, None, batched=batched, finite=finite)[0]

    def arrays(self, sample: Mapping[str, Any], *, batched: bool, finite: bool = True) -> Sample:
        """Return the input fields of samples in their declared dtypes, with a batch axis.

        Args:
            sample: As for `predict`.
            batched: As for `predict`.
            finite: As for `predict`.

        Raises:
            SampleError: A field or some of its values are missing or not finite, it has not the declared shape, the
                declared dtype cannot hold its values, or the fields of a batch hold different numbers of samples.
        """
        fed: Sample = {}
        for name in self.inputs:
            if name not in sample:
                raise SampleError(f"the prediction needs field {name!r}, which is missing; there are {list(sample)}")
            field = self.spec[name]
            value, want = as_field(sample[name], field.dtype, name, WHOSE), field.shape
            if value.ndim != len(want) + batched or value.shape[batched:] != want:
                got = value.shape[batched:] if batched else value.shape
                raise SampleError(f"field {name!r} has shape {got}; the network was made for {want}")
            fed[name] = value if batched else value[np.newaxis]
        if batched and len(fed) > 1 and len({len(value) for value in fed.values()}) > 1:
            counts = {name: len(value) for name, value in fed.items()}
            raise SampleError(f"the fields of a batch must hold equally many samples; they hold {counts}")
        if finite and not self.takes_nonfinite:
            check_finite(self.spec, fed, WHOSE, batched=batched)
        return fed

    @torch.no_grad()
    def predict_from(
        self, sample: Mapping[str, Any], memory: Any, *, batched: bool = False, finite: bool = True
    ) -> tuple[Sample, Any]:
        """Predict in physical units with what a recurrent network remembers of the steps before.

        Args:
            sample: As for `predict`.
            memory: What was returned at the step before, of as many samples; None at the first one.
            batched: As for `predict`.
            finite: As for `predict`.

        Returns:
            What `predict` returns, and what the network remembers then; None for one that is not recurrent.

        Raises:
            SampleError: As for `predict`.
        """
        fed = self.arrays(sample, batched=batched, finite=finite)
        if self.training:
            with evaluating(self):
                arrays, memory = self._predict(fed, memory)
        elif batched or not self.chooses_threads or torch.get_num_threads() == 1:
            arrays, memory = self._predict(fed, memory)  # the mode need not be looked for in every part of the network
        else:
            with _around[-1](self):
                arrays, memory = self._predict(fed, memory)
        return arrays if batched else {name: value[0] for name, value in arrays.items()}, memory

    def check_overflow(self, fed: Mapping[str, Any], dtype: torch.dtype) -> None:
        """Raise SampleError where finite values, as the network is fed with them, become infinite in its dtype.

        Args:
            fed: What `arrays` returned.
            dtype: That of the network.
        """
        wider = [value for value in fed.values() if value.dtype.kind == "f" and value.itemsize > dtype.itemsize]
        if any((np.abs(value) > torch.finfo(dtype).max).any() for value in wider):
            self._check_fed(self._tensors(fed, self.device))

    def _predict(self, fed: Mapping[str, Any], memory: Any) -> tuple[Sample, Any]:
        first = _first_parameter(self.network, floating=True)  # looked for once: a small network takes not much longer
        device, dtype = (self.device, self.dtype) if first is None else (first.device, first.dtype)
        tensors = self._tensors(fed, device)
        self.check_overflow(fed, dtype)
        if self.recurrent:
            prediction, memory = self.advance(tensors, memory)
            applied = self.applied(prediction, tensors)
        else:
            applied, memory = self.physical(tensors), None
        count = len(next(iter(fed.values())))
        arrays: Sample = {}
        for name in self.outputs:
            field, value = self.spec[name], applied[name]
            if value.shape != (count, *field.shape):
                got, want = tuple(value.shape), (count, *field.shape)
                raise SampleError(
                    f"{self._name} predicted field {name!r} with shape {got} instead of {want}. The shape of its "
                    "output must follow from that of its input alone"
                )
            arrays[name] = _to_array(value, field)
        return arrays, memory

    def _check_fed(self, tensors: Fields) -> None:
        """Raise SampleError where finite values, as they are fed, become infinite in the dtype of the weights."""
        check_cast(self._fed(tensors), self.dtype, self._name)

    @property
    def _name(self) -> str:
        return f"the network {type(unwrapped(self.network)).__name__}"

    @torch.no_grad()
    def _try_on_zeros(self, feeding: Feeding | None, others: Sequence[str]) -> None:
        # two samples: a network that mixes up the batch axis with another one shows it, one that drops it too
        zeros = {name: np.zeros((2, *self.spec[name].shape), self.spec[name].dtype) for name in self.inputs}
        with evaluating(self):
            try:
                tensors = self.tensors(zeros)
                if feeding is None:
                    tried = self._fed(tensors)
                    order = [
                        *(name for name in self.inputs if name in tried),
                        *(n for n in tried if n not in self.inputs),
                    ]
                    feeding = Feeding.of(self.network, order, others)
                self.feeding = feeding
                prediction = self(tensors)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                if isinstance(error, ConfigError):
                    raise
                fields = {name: self.spec[name].shape for name in self.inputs}
                raise ConfigError(
                    f"{self._name} does not accept its input fields {fields}: {error}. Change the network or `inputs`."
                ) from error
            try:
                applied = self.applied(prediction, tensors)
            except ConfigError as error:
                self._check_outputs(prediction, cause=error)
                raise
        self._check_outputs(applied)

    def _check_outputs(self, fields: Fields, cause: Exception | None = None) -> None:
        for name in self.outputs:
            got, want = tuple(fields[name].shape), (2, *self.spec[name].shape)
            if got != want:
                shown = got[1:] if got[:1] == (2,) else f"{got} for a batch of 2"
                text = (
                    f"{self._name} predicts field {name!r} with shape {shown}; the samples say {want[1:]}. Change "
                    "the network's output shape, or convert it in the transform before_apply."
                )
                raise ConfigError(text) from cause


def field_names(
    spec: SampleSpec, inputs: Sequence[str] | None, outputs: Sequence[str] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the input fields and of the predicted fields of a network.

    Args:
        spec: Fields of the samples.
        inputs: Chosen input fields, or None for those of role "input".
        outputs: Chosen output fields, or None for those of role "target".

    Raises:
        ConfigError: There is none, or one is not in the samples.
    """
    return (
        _names(spec, "inputs", spec.names("input") if inputs is None else tuple(inputs), "input"),
        _names(spec, "outputs", spec.names("target") if outputs is None else tuple(outputs), "target"),
    )


def _names(spec: SampleSpec, argument: str, names: tuple[str, ...], role: str) -> tuple[str, ...]:
    if not names:
        raise ConfigError(f'no field has the role "{role}", so name {argument}=[...]; the samples have {list(spec)}')
    for name in names:
        if name not in spec:
            raise ConfigError(f"{argument} names {name!r}, which the samples lack; they have {list(spec)}")
    return names


def around_single_predictions(block: Around) -> Around:
    """Let the predictions of single samples be made within a block, which is made of the predictor; a decorator."""
    _around.append(block)
    return block


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set evaluation mode within the block; each part of the module returns to the mode that it had."""
    if not module.training:
        yield
        return
    modes = [(part, part.training) for part in module.modules() if hasattr(part, "training")]  # a frozen one has none
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


def _first_parameter(module: nn.Module, *, floating: bool = False) -> Tensor | None:
    """Return the first of ``module.parameters()``, at a tenth of its cost: a prediction needs it twice."""
    for tensor in module._parameters.values():
        if tensor is not None and (tensor.is_floating_point() or not floating):
            return tensor
    for child in module._modules.values():
        if child is not None and (found := _first_parameter(child, floating=floating)) is not None:
            return found
    return None


def to_tensor(value: Any) -> Tensor:
    """Return an array as a tensor of the same dtype; shares its memory where torch can. A tensor stays as it is."""
    if isinstance(value, Tensor):
        return value  # through an array, torch would forget that its memory is pinned
    array = np.asarray(value)
    flags = array.flags
    if flags.writeable and flags.c_contiguous and array.dtype.isnative:  # as nearly always
        return torch.from_numpy(array)
    # torch knows neither read-only memory, nor a foreign byte order, nor strides that run backwards
    if not array.flags.writeable or not array.dtype.isnative or any(stride < 0 for stride in array.strides):
        array = array.astype(array.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(array)


def _to_array(value: Tensor, field: Field) -> Any:
    if field.dtype.kind in "iu" and value.is_floating_point():
        value = value.round()  # a cast would cut 2.9999 down to 2
    elif value.dtype == torch.bfloat16:
        value = value.float()  # NumPy has no such numbers
    return value.cpu().numpy().astype(field.dtype, copy=False)
