"""`export_network`: a trained network as a file that runs without physgym."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from physgym.errors import ConfigError
from physgym.formats import registry
from physgym.network_loading import load_network
from physgym.nn.predictor import Predictor


def export_network(
    network: Predictor | str | Path,
    out: str | Path,
    *,
    to: str | None = None,
    samples: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> str:
    """Write a trained network to a file that runs without physgym, and a JSON next to it that says what it takes.

    Normalization and transforms are inside, the size of a batch is free. The written file is run in batches of 1, 2 and
    7, and compared with the network; where anything differs there is no file.

    Args:
        network: A predictor, such as ``trainer.predictor`` or what `load_checkpoint` returns; or the path of a session
            or of a checkpoint.
        out: The file to make, such as ``beam.onnx``; the JSON is ``beam.onnx.json``.
        to: "pt2", a program of torch.export, or "onnx"; by default what the name of the file ends in.
        samples: Input fields in physical units with a batch axis, on which file and network are compared; by default
            training samples, or random ones where these are not found.
        tolerance: Largest difference of a prediction, as a part of the range of the field's predictions; by default
            1e-5 for weights in float32 and 1e-9 in float64. Rounding of the largest value is allowed too.

    Returns:
        A line that says where the file is, and the largest differences.

    Raises:
        ConfigError: The file exists, a package is missing, the network cannot be exported, or the file does not give
            the network's predictions.
        CheckpointError: There is no such checkpoint, or it is damaged.
    """
    name = Path(out).suffix.removeprefix(".") if to is None else to
    if to is None and name not in registry.network_names():
        raise ConfigError(
            f"{Path(out).name} does not say to what a network is to be exported: let it end in "
            f"{' or '.join(f'.{one}' for one in registry.network_names())}"
        )
    form: Any = registry.find_network(name)
    predictor = network if isinstance(network, Predictor) else load_network(Path(network))
    line: str = form.write(predictor, Path(out), samples=samples, tolerance=tolerance)
    return line
