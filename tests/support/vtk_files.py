"""Files of VTK as VTK's own reader finds them, and datasets on a mesh or a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from physgym.data.dataset import SampleDataset
from physgym.data.writer import SampleWriter
from physgym.sample import Field, SampleSpec

SQUARE = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
SPEC = SampleSpec(
    [
        Field("u", (4, 2), np.dtype("f4"), "input", "m"),
        Field("load", (), np.dtype("f8"), "input", "N"),
    ]
)
PER_EPISODE = 7


@dataclass
class Step:
    """What a reader finds at a time."""

    time: float
    points: dict[str, np.ndarray]
    cells: dict[str, np.ndarray]
    values: dict[str, np.ndarray]
    positions: np.ndarray
    kinds: list[int]
    bounds: tuple[float, ...]


def read_steps(file) -> list[Step]:
    """All steps of a file, by VTK's reader."""
    from vtkmodules.util.numpy_support import vtk_to_numpy
    from vtkmodules.vtkCommonExecutionModel import vtkStreamingDemandDrivenPipeline
    from vtkmodules.vtkIOHDF import vtkHDFReader

    def arrays(held):
        each = (held.GetArray(i) for i in range(held.GetNumberOfArrays()))
        return {one.GetName(): vtk_to_numpy(one).copy() for one in each}

    reader = vtkHDFReader()
    reader.SetFileName(str(file))
    reader.UpdateInformation()
    found = []
    for time in reader.GetOutputInformation(0).Get(vtkStreamingDemandDrivenPipeline.TIME_STEPS()):
        reader.UpdateTimeStep(time)
        data = reader.GetOutputDataObject(0)
        groups = (arrays(held) for held in (data.GetPointData(), data.GetCellData(), data.GetFieldData()))
        positions = np.array([data.GetPoint(i) for i in range(data.GetNumberOfPoints())])
        kinds = [data.GetCellType(i) for i in range(data.GetNumberOfCells())]
        found.append(Step(time, *groups, positions, kinds, data.GetBounds()))
    return found


def random_rows(spec: SampleSpec, count: int) -> dict[str, np.ndarray]:
    """Values for each field."""
    rng = np.random.default_rng(0)
    return {name: (100 * rng.random((count, *field.shape))).astype(field.dtype) for name, field in spec.items()}


def write_rows(path, spec=SPEC, count=20, *, constants=None, partitions=1, close=True, attributes=None):
    """A dataset of `random_rows` in episodes of seven steps, and these rows."""
    rows = random_rows(spec, count)
    size = (
        {} if partitions == 1 else {"max_file_size": -(-count // partitions) * (spec.nbytes + 28)}
    )  # tests.support.sizes
    writer = SampleWriter(path, spec, source={"env": "toy"}, attributes=attributes, **size)
    if constants:
        writer.set_constants(constants)
    number = np.arange(count)
    names = {"episode": number // PER_EPISODE, "step": number % PER_EPISODE}
    writer.append(rows, **names, seed=(number // PER_EPISODE).astype("u8"))
    writer.close(seal=close)
    dataset = SampleDataset(path)
    assert len(dataset.partitions) == partitions
    return dataset, rows


def square(path, **options):
    """A square of one cell, with displacements and a load."""
    return write_rows(path, constants={"nodes": SQUARE, "cells": np.array([[0, 1, 2, 3]])}, **options)
