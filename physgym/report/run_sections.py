"""Sections of a report on a run of a network: errors step by step, and what predictions and the solver cost."""

from __future__ import annotations

import numpy as np

from physgym.report import charts
from physgym.report.charts import Chart
from physgym.report.figures import text_of
from physgym.report.page import Page
from physgym.running.run_report import RunReport
from physgym.spaces import Array

MILLISECONDS = 1e3


def add_run(page: Page, report: RunReport) -> None:
    """Add what a run showed."""
    latency = report.latency_ms
    figures = {"steps": f"{report.steps:,}", "rejected": f"{report.rejected:,}"}
    figures |= {
        f"relative L2 error, {name}": f"{one.summary['relative_l2']:.3g}" for name, one in report.errors.items()
    }
    for name in ("network", "solver"):
        if f"{name}_median" in latency:
            figures[f"{name}, median of a step"] = f"{latency[f'{name}_median']:.3g} ms"
    page.headline(figures)
    if report.interrupted:
        page.remark("Ctrl-C ended the run before its last step.")
    if report.nonfinite:
        page.remark(f"{report.nonfinite:,} predictions are not finite.")
    page.section("Errors")
    if not report.errors:
        page.text("There was no solver to compare with.")
    rows, drawn = [], []
    for name, errors in report.errors.items():
        summary, unit = errors.summary, report.units.get(name, "")
        figures_of = [summary[key] for key in ("relative_l2", "mean_error", "max_error", "mean_size")]
        rows.append([name, unit, *map(text_of, figures_of)])
        steps = np.arange(len(errors.relative_l2))
        relative = {name: (steps, errors.relative_l2)}
        drawn.append(charts.curves(f"Relative L2 error of {name}", relative, across="step of the run"))
        drawn.append(charts.histogram(f"Relative L2 error of {name}, by step", {name: errors.relative_l2}))
        title = f"Mean error of {name}"
        drawn.append(charts.histogram(title, {name: errors.mean}, across=unit))
    if rows:
        page.table(["field", "unit", "relative L2 error", "mean error", "largest error", "mean size"], rows)
    page.charts(drawn)
    page.section("Time of a step")
    kinds = {"network": report.network_seconds, "solver": report.solver_seconds}
    times = {name: seconds * MILLISECONDS for name, seconds in kinds.items() if len(seconds)}
    if times:
        rows = [[name, *(f"{one:.4g}" for one in np.percentile(ms, [50, 95, 100]))] for name, ms in times.items()]
        page.table(["", "median, ms", "95th percentile, ms", "longest, ms"], rows)
        for remark in report.remarks:
            page.text(f"{remark[0].upper()}{remark[1:]}.")
        page.charts([_usual_times(name, ms) for name, ms in times.items()])


def _usual_times(name: str, ms: Array) -> Chart:
    # the longest steps, such as the first one, would leave nothing to see of the others
    usual = ms[ms <= 3 * np.percentile(ms, 95)]
    left = len(ms) - len(usual)
    steps = "1 step" if left == 1 else f"{left:,} steps"
    note = f"{steps} took longer than three times the 95th percentile: not drawn" if left else ""
    return charts.histogram(f"Time of the {name}", {name: usual}, across="ms", note=note)
