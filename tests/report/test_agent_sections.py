"""Sections of reports on agents: curves over the steps, and runs."""

from __future__ import annotations

from physgym.report.agent_sections import add_agent_curves, add_agent_run, add_agent_times, agent_headline
from physgym.report.page import Page
from physgym.rl.agent_run import AgentRun
from physgym.training.history import History

HISTORY = History(
    [
        {"epoch": 1, "step": 100, "episodes": 0, "seconds": 1.0, "samples": 100, "steps_per_second": 100.0},
        {"epoch": 2, "step": 200, "return": 20.0, "length": 20.0, "loss": 0.5, "steps_per_second": 300.0},
        {"epoch": 3, "step": 300, "return": 30.0, "length": 30.0, "loss": 0.25, "evaluation_return": 40.0},
    ]
)


def text_of(tmp_path, page) -> str:
    page.save(tmp_path / "page.html")
    return (tmp_path / "page.html").read_text()


def test_curves_are_over_the_steps_with_evaluations_next_to_the_training(tmp_path):
    page = Page("pole", "training")
    add_agent_curves(page, HISTORY)
    add_agent_times(page, HISTORY, 3.0)
    text = text_of(tmp_path, page)
    assert text.index("Return") < text.index("Length") < text.index("Loss")
    for said in ("in evaluation, without exploration", "steps of the environments", "200 steps/s of acting"):
        assert said in text, said
    assert '"Samples"' not in text
    assert agent_headline(HISTORY) == {
        "steps": "300",
        "return in training, last": "30",
        "return in evaluation, last": "40",
    }


def test_a_section_without_anything_says_so_or_is_left_out(tmp_path):
    page = Page("pole", "training")
    add_agent_curves(page, None)
    add_agent_times(page, None, None)
    text = text_of(tmp_path, page)
    assert "no checkpoint with a record" in text
    assert "Throughput" not in text
    assert agent_headline(None) == {}


def test_an_agent_without_evaluations_and_complete_episodes_has_a_report(tmp_path):
    bare = History([{"epoch": 1, "step": 100, "episodes": 0}])
    page = Page("pole", "training")
    add_agent_curves(page, bare)
    add_agent_times(page, bare, None)
    assert "Throughput" not in text_of(tmp_path, page)
    assert agent_headline(bare) == {"steps": "100"}


def test_a_run_shows_its_episodes(tmp_path):
    page = Page("pole", "run")
    add_agent_run(page, AgentRun(30, [10.0, 20.0], [10, 20]))
    text = text_of(tmp_path, page)
    assert "mean return" in text
    assert "Return of each episode" in text
    page = Page("pole", "run")
    add_agent_run(page, AgentRun(5, begun=5.0, interrupted=True))
    text = text_of(tmp_path, page)
    assert "None ended within 5 steps" in text
    assert "Ctrl-C ended the run" in text
