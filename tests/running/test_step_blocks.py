import itertools

import numpy as np
import pytest

from physgym.runner import Runner
from physgym.running.prediction_errors import compare
from physgym.running.run_report import RunReport
from physgym.running.step_blocks import StepBlocks
from tests.running.test_runner import predictor
from tests.support import toys


def test_the_report_says_errors_and_latency():
    times = np.linspace(1, 101, 101) * 1e-3
    errors = compare(np.array([[1.0, 2.0]]), np.array([[1.0, 1.0]]))
    report = RunReport({"y": errors}, times, times / 10, 101, 2, 1, units={"y": "mm"})
    assert report.latency_ms == pytest.approx(
        {"network_median": 5.1, "network_p95": 9.6, "solver_median": 51, "solver_p95": 96}
    )
    assert str(report).splitlines() == [
        "101 steps, 2 rejected, 1 predictions not finite",
        "y: relative L2 error 70.71%, mean error 0.5 mm, largest 1 mm",
        "time per step: network median 5.1 ms, 95th percentile 9.6 ms; solver median 51 ms, 95th percentile 96 ms",
    ]
    assert str(RunReport()) == "0 steps, 0 rejected"


def test_the_report_says_what_a_prediction_takes_alone_and_that_others_compute_too():
    times = np.full(3, 2e-3)
    said = {"alone_seconds": 1e-4, "computing": "one thread in place of torch's 2, with the same bits"}
    report = RunReport(network_seconds=times, solver_seconds=times, steps=3, waiting=0.68, **said)
    assert str(report).splitlines()[2:] == [
        "network alone: 0.1 ms; one thread in place of torch's 2, with the same bits",
        "the machine is oversubscribed: for 68% of the time in which this process wanted to compute it waited for a "
        "core, which is part of these times",
    ]
    report.waiting = 0.1
    assert len(report.remarks) == 1


def test_a_run_without_end_keeps_the_figures_of_its_last_steps():
    network = predictor(2.2)
    with Runner(toys.Line, network) as runner:
        steps = list(itertools.islice(runner.steps(), 700))
        blocks = StepBlocks(runner.spec, [network.spec["y"]], compare=True, window=300)
        for step in steps:
            blocks.add(step)
    report = RunReport()
    blocks.summarize(report)
    kept = report.errors["y"].relative_l2.astype(np.float32)
    assert 300 <= len(kept) < 300 + 128
    np.testing.assert_array_equal(kept, [step.errors["y"] for step in steps[-len(kept) :]])
    np.testing.assert_array_equal(report.network_seconds, [step.network_seconds for step in steps[-len(kept) :]])
