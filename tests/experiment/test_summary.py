"""Sessions as a notebook shows them."""

from __future__ import annotations

import pytest

from physgym.errors import ConfigError
from physgym.experiment.run import Run
from physgym.experiment.runs import Outcome
from physgym.experiment.summary import SessionSummary
from physgym.training.history import History


@pytest.fixture
def session(tmp_path):
    folder = tmp_path / "s<b>"
    folder.mkdir()
    with Run(folder, "train", {"description": "<script>", "seed": 7}) as run:
        run.results = {"epoch": 3, "loss<i>": 0.123456789}
    return folder


def test_a_session_is_a_table_of_escaped_texts(session):
    text = SessionSummary(session)._repr_html_()
    assert '<td style="text-align: left">what</td>' in text
    text = text.replace(' style="text-align: left"', "")
    assert text.startswith("<b>Session s&lt;b&gt;</b> &lt;script&gt;")
    assert "<td>what</td><td>train, completed</td>" in text
    assert "<td>seed</td><td>7</td>" in text
    assert "<th>epoch</th><th>loss&lt;i&gt;</th>" in text
    assert "<td>3</td><td>0.123457</td>" in text
    assert not [tag for tag in ("<script>", "s<b>", "<i>") if tag in text]


def test_a_session_is_read_anew(session):
    summary = SessionSummary(session)
    with Run(session, "train", {}):
        assert ">train, running, 2 runs</td>" in summary._repr_html_()
    assert ">train, completed, 2 runs</td>" in summary._repr_html_()
    assert repr(summary) == f"SessionSummary({str(session)!r})"


def test_a_notebook_stands_for_the_command_of_its_kernel(session, monkeypatch):
    assert ">in a notebook</td>" not in SessionSummary(session)._repr_html_()
    monkeypatch.setattr("sys.argv", ["/opt/lib/ipykernel_launcher.py", "-f", "/run/kernel-1.json"])
    with Run(session, "train", {}):
        text = SessionSummary(session)._repr_html_()
    assert ">in a notebook</td>" in text
    assert "kernel-1.json" not in text


def test_what_is_no_session_says_so(tmp_path):
    with pytest.raises(ConfigError, match="is not a session"):
        SessionSummary(tmp_path)


def test_what_comes_of_a_training_shows_session_and_history(session):
    history = History([{"epoch": 1, "loss": 2.0}])
    text = Outcome(session, None, history)._repr_html_()
    assert text.index("<b>Session ") < text.index("<b>History</b> 1 epochs")
    assert "<b>Session " not in Outcome(None, None, history)._repr_html_()
