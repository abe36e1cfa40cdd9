"""What is tried in processes of its own, which may hang, crash or answer with anything."""

from __future__ import annotations

import subprocess

import pytest

from physgym.doctor import trials
from physgym.doctor.trials import OPTIONAL, REMEDIES, SUBJECTS, TRIALS, attempt


def test_every_trial_has_a_name_and_a_remedy():
    assert set(TRIALS) == set(SUBJECTS) == set(REMEDIES)


@pytest.mark.parametrize(
    ("status", "printed", "errors", "text"),
    [
        (-11, "", "libGL error: no screen\n", "ends the process by SIGSEGV: libGL error: no screen"),
        (1, "", "ImportError: libEGL.so.1\n", "fails: ImportError: libEGL.so.1"),
        (0, "", "", "fails"),
        (0, "hello\n", "", "gave an unexpected answer: hello"),
        (0, '{"state": "ok"}\n', "", 'gave an unexpected answer: {"state": "ok"}'),
        (0, "[1]\n", "", "gave an unexpected answer: [1]"),
    ],
)
def test_a_trial_that_fails(monkeypatch, status, printed, errors, text):
    done = subprocess.CompletedProcess([], status, printed.encode(), errors.encode())
    monkeypatch.setattr(trials, "capture", lambda *_, **__: done)
    found = attempt("scenes")
    assert (found.subject, found.state, found.text) == ("3-D pictures", "note", text)
    assert found.remedy
    assert attempt("workers").state == "problem"


def test_a_trial_that_hangs_or_cannot_begin(monkeypatch):
    def hang(*_, timeout):
        raise subprocess.TimeoutExpired("trial", timeout)

    def refuse(*_, timeout):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(trials, "capture", hang)
    assert attempt("devices", 3).text == "gave no answer within 3 s"
    monkeypatch.setattr(trials, "capture", refuse)
    assert attempt("devices").text == "cannot be tried: Cannot allocate memory"


def test_what_a_trial_prints_before_its_answer_is_no_matter(monkeypatch):
    printed = b'Fontconfig warning\n{"state": "ok", "text": "draws", "remedy": "", "values": {"window": "EGL"}}\n'
    monkeypatch.setattr(trials, "capture", lambda *_, **__: subprocess.CompletedProcess([], 0, printed, b""))
    found = attempt("scenes")
    assert (found.state, found.text, found.values) == ("ok", "draws", {"window": "EGL"})


@pytest.mark.slow
@pytest.mark.parametrize("name", TRIALS)
def test_trials_work_here(name):
    if name in OPTIONAL:
        pytest.importorskip(name)
    found = attempt(name)
    assert found.state in ("ok", "note"), found
    assert found.state == "ok" or name in ("scenes", "devices", "mujoco"), found
