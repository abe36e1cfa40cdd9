"""Networks, transforms of their fields, and what optimizes them. Importing it imports torch."""

from __future__ import annotations

import physgym.nn.threads  # noqa: F401 - by which predictors choose theirs
from physgym.nn.autoencoder import Autoencoder, AutoencoderOptimization
from physgym.nn.changes import Changes
from physgym.nn.cnn import CNN
from physgym.nn.export import export_network
from physgym.nn.fno import FNO
from physgym.nn.losses import RelativeL2
from physgym.nn.metrics import METRICS, Metric, MetricTable
from physgym.nn.mlp import MLP
from physgym.nn.optimization import Optimization
from physgym.nn.physics import ElasticEnergy, HeatResidual, Laplacian, PoissonResidual
from physgym.nn.predictor import Predictor
from physgym.nn.registry import build, describe, register, registered
from physgym.nn.transforms import Compose, Hold, Inverse, LossTransform, Normalize, Transform, Transforms
from physgym.nn.unet import UNet

__all__ = [
    "CNN",
    "FNO",
    "METRICS",
    "MLP",
    "Autoencoder",
    "AutoencoderOptimization",
    "Changes",
    "Compose",
    "ElasticEnergy",
    "HeatResidual",
    "Hold",
    "Inverse",
    "Laplacian",
    "LossTransform",
    "Metric",
    "MetricTable",
    "Normalize",
    "Optimization",
    "PoissonResidual",
    "Predictor",
    "RelativeL2",
    "Transform",
    "Transforms",
    "UNet",
    "build",
    "describe",
    "export_network",
    "register",
    "registered",
]
