"""Samplers: where the parameters of episodes and the actions of generation come from.

A sampler of *parameters* is asked in the parent, once per episode; one of *actions* in the worker, once per step. What
it draws is a function of the run's seed, the episode's index and the step alone, so that no number of workers, crash or
resume changes it. Its `describe` is stored with a dataset, which can be continued with the same sampler only.

Most of them fill a unit cube with points, which `physgym.cube.Cube` maps to the space.
"""

from __future__ import annotations

from physgym.samplers.base import Sampler
from physgym.samplers.breed import Breed
from physgym.samplers.find import find_sampler, rebuild_sampler
from physgym.samplers.functions import Policy
from physgym.samplers.independent import Gaussian, Uniform
from physgym.samplers.networks import NetworkPolicy
from physgym.samplers.parameter_table import ParameterTable
from physgym.samplers.sequences import Grid, LatinHypercube, Sobol

__all__ = [
    "Breed",
    "Gaussian",
    "Grid",
    "LatinHypercube",
    "NetworkPolicy",
    "ParameterTable",
    "Policy",
    "Sampler",
    "Sobol",
    "Uniform",
    "find_sampler",
    "rebuild_sampler",
]
