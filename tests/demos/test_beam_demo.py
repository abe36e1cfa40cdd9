from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.image import imread

from physgym import SampleDataset
from physgym.demos.beam import Budget, baselines, best_baseline, study
from physgym.experiment.config import load_config
from physgym.experiment.record import read_record
from physgym.training import load_checkpoint


@pytest.mark.slow
def test_the_network_beats_the_baselines_by_far(tmp_path, capsys):
    budget = Budget(samples=1000, held_out=60, epochs=60)
    results = study(budget, tmp_path / "demo", num_workers=2, seed=3)
    assert results["network"]["relative_l2"] < 0.08
    assert results["network"]["relative_l2"] < 0.5 * best_baseline(results)["relative_l2"]
    assert results["median_largest_displacement"] > 15.0
    assert results["rejected"] <= 0.02 * 60

    printed = capsys.readouterr().out
    assert "mean relative L2 error on 60 unseen episodes" in printed
    assert str(tmp_path / "demo" / "report.png") in printed
    assert json.loads((tmp_path / "demo" / "report.json").read_text())["network"] == results["network"]
    assert imread(tmp_path / "demo" / "report.png").shape[:2] == (900, 1500)
    assert len(SampleDataset(tmp_path / "demo" / "dataset")) == 1000
    assert load_checkpoint(tmp_path / "demo").outputs == ("displacement",)
    (run,) = read_record(tmp_path / "demo")["runs"]
    assert (run["kind"], run["outcome"], run["dataset"]["samples"]) == ("demo", "completed", 1000)
    assert run["results"]["held_out/relative_l2"] == results["network"]["relative_l2"]
    config = load_config(tmp_path / "demo" / "config.yaml")
    assert (config.training.epochs, config.network.arguments["residual"]) == (60, True)


def test_the_linear_baseline_is_the_best_linear_map(tmp_path):
    """On data that a linear map makes, it is exact; the mean is the mean."""

    class Linear:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(400, 4, 3))
        y = (x.reshape(400, -1) @ rng.normal(size=(12, 12)) + 3).reshape(400, 4, 3)
        spec = {"displacement": np.empty((4, 3))}  # noqa: RUF012

        def __len__(self):
            return 400

        def __getitem__(self, _):
            return {"forces": self.x, "displacement": self.y}

    data = Linear()
    found = baselines(data)
    np.testing.assert_allclose(found["linear, ridge 1e-06"](data.x), data.y, atol=1e-4)
    np.testing.assert_allclose(found["mean"](data.x)[7], data.y.mean(0))
