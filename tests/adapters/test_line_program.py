"""Programs that answer lines: what they are told, what they answer, and every way in which they fail to."""

from __future__ import annotations

import gc
import time

import numpy as np
import psutil
import pytest

import physgym.adapters.line_program
from physgym.adapters.line_program import LineProgram, RunningLines
from physgym.errors import ConfigError, RejectSample, SimulatorError, WrongValue

ECHO = 'while read -r line; do echo "$line"; done'
LONG = 60.0  # seconds until something happens on a machine that is busy


@pytest.fixture
def made(tmp_path):
    """Return what starts a script of the shell as a program, in a folder of the test."""
    programs = []

    def make(script=ECHO, **options):
        program = LineProgram(["sh", "-c", script], folder=tmp_path, **options)
        programs.append(program)
        program.start()
        return program

    yield make
    for program in programs:
        program.close()


def gone(pid):
    """Wait for the end of a process, and return whether it came."""
    end = time.monotonic() + LONG
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not psutil.pid_exists(pid)


def test_numbers_reach_the_program_and_come_back_to_the_last_bit(made):
    program = made()
    values = np.array([0.1, 1 / 3, -5e-324, 1.7976931348623157e308, -0.0, np.inf, np.nan])
    assert program.ask_numbers(values, count=7).tobytes() == values.tobytes()
    single = np.float32(0.1)
    assert program.ask_numbers(single, count=1) == float(single)
    assert program.ask("step", 3, np.array([[1, 2], [3, 4]]), True, np.int8(-1), 2.5) == "step 3 1 2 3 4 1 -1 2.5"
    assert program.ask("réponse") == "réponse"


def test_fortran_numbers_are_read(made):
    program = made("while read -r line; do echo '  1.5D+01 1.0-101'; done")
    assert program.ask_numbers("go", count=2).tolist() == [15.0, 1e-101]


def test_lines_longer_than_a_pipe_go_both_ways(tmp_path):
    (tmp_path / "twice.py").write_text(
        "import sys\nfor line in sys.stdin:\n    print(line.strip(), line.strip(), flush=True)\n"
    )
    program = LineProgram([str(tmp_path / "twice.py")])
    program.start()
    values = np.random.default_rng(0).normal(size=10_000)
    assert np.array_equal(program.ask_numbers(values, count=20_000), np.tile(values, 2))
    assert [str(file) for file in program.files_read] == [str(tmp_path / "twice.py")]  # not this Python
    program.close()


@pytest.mark.parametrize(
    ("end", "how"), [("exit 3", "ended with status 3"), ("kill -SEGV $$", r"was ended by signal 11 \(Seg")]
)
def test_a_program_that_dies_in_a_step_says_how_and_what_it_printed_last(made, end, how):
    program = made(f'read -r line; echo "$line"; read -r line; printf half; echo "no pivot in row 7" >&2; {end}')
    assert program.ask("step", 1) == "step 1"
    with pytest.raises(SimulatorError, match=rf"sh {how}") as caught:
        program.ask("step", 2)
    assert "before the answer to 'step 2'; it had printed 'half' without the end of a line" in str(caught.value)
    assert "stderr ends with:\n  no pivot in row 7" in str(caught.value)
    with pytest.raises(SimulatorError, match=r"sh does not run: call start\(\)"):
        program.ask("step", 3)
    program.start()
    assert program.ask("step", 1) == "step 1"


def test_an_answer_counts_though_the_program_ends_after_it(made):
    program = made("read -r line; echo last; exit 0")
    assert program.ask("step") == "last"
    with pytest.raises(SimulatorError, match="ended with status 0 before the answer to 'step'; it printed"):
        program.ask("step")


def test_no_answer_in_time_ends_the_program_and_reminds_of_flushing(made):
    program = made("echo started >&2; echo $$ > pid; exec sleep 1000", timeout=0.5)
    with pytest.raises(SimulatorError, match=r"did not print the answer to 'step' within 0\.5 s and was") as caught:
        program.ask("step")
    assert "std::endl, fflush" in str(caught.value)
    assert "give LineProgram a larger timeout" in str(caught.value)


@pytest.mark.slow
def test_half_an_answer_is_shown_and_needs_no_reminder(made):
    program = made("read -r line; printf '1.5 '; exec sleep 1000", timeout=5.0)
    with pytest.raises(SimulatorError, match=r"it had printed '1\.5 ' without the end of a line") as caught:
        program.ask("step")
    assert "fflush" not in str(caught.value)


def test_a_program_that_does_not_read_is_late_as_well(made):
    program = made("exec sleep 1000", timeout=0.5)
    with pytest.raises(SimulatorError, match=r"did not print the answer to '0\.0 0\.0.*\.\.\.' within 0\.5 s"):
        program.ask(np.zeros(100_000))


@pytest.mark.slow
def test_the_end_is_noticed_though_others_hold_the_output_open(made, tmp_path):
    program = made("sleep 1000 & echo $! > other; read -r line; exit 4", timeout=LONG)
    with pytest.raises(SimulatorError, match="ended with status 4"):
        program.ask("step")
    assert gone(int((tmp_path / "other").read_text()))


def test_a_program_that_closes_its_stdout_is_ended(made, monkeypatch):
    monkeypatch.setattr(physgym.adapters.line_program, "END", 0.1)
    program = made("exec >&-; exec sleep 1000", timeout=LONG)
    with pytest.raises(SimulatorError, match="closed its stdout before the answer to 'step'"):
        program.ask("step")


@pytest.mark.parametrize(
    "script", ["while read -r line; do printf 'x\\ny\\n'; done", f"echo welcome; {ECHO}"], ids=["two", "greeting"]
)
def test_lines_that_nobody_asked_for_are_refused(made, script):
    program = made(script)
    with pytest.raises(SimulatorError, match=r"besides the answer to 'step 1'.*as greeting"):  # noqa: PT012
        for _ in range(10_000):  # on a busy machine it may come later than the others are awaited
            program.ask("step", 1)


def test_a_greeting_is_no_answer(made):
    program = made(f"echo; echo welcome; {ECHO}", greeting=2)
    assert program.ask("step", 1) == "step 1"
    with pytest.raises(SimulatorError, match="ended with status 0 before its greeting"):
        made("echo welcome", greeting=2)


def test_a_rejected_step_is_no_end_of_the_program(made):
    program = made(ECHO, reject="rejected: .*")
    with pytest.raises(RejectSample, match=r"^sh: rejected: no pivot$"):
        program.ask("rejected: no pivot")
    assert program.ask("step") == "step"


@pytest.mark.parametrize(("answer", "error"), [("1 2", "has 2 numbers, and 3 are wanted"), ("1 b 3", "has 'b' where")])
def test_other_than_the_numbers_that_are_wanted_is_an_error(made, answer, error):
    program = made()
    with pytest.raises(SimulatorError, match=f"the answer '{answer}' of sh {error}"):
        program.ask_numbers(answer, count=3)
    with pytest.raises(SimulatorError, match="does not run"):
        program.ask("step")


def test_an_interrupted_answer_is_not_taken_for_the_next_one(made, monkeypatch):
    program = made()

    def interrupted(self, milliseconds, *, writing=False):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunningLines, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program.ask("step")
    with pytest.raises(SimulatorError, match="does not run"):
        program.ask("step")


def test_a_program_may_end_in_order_and_start_again(made, tmp_path):
    program = made(f"{ECHO}; echo end >> ends")
    for _ in range(2):
        program.start()
        program.start()  # it runs
        program.ask("step")
        program.close()
        program.close()
    assert (tmp_path / "ends").read_text() == "end\nend\n"


@pytest.mark.slow
def test_a_program_that_stays_is_ended_with_all_that_it_has_started(made, monkeypatch, tmp_path):
    monkeypatch.setattr(physgym.adapters.line_program, "END", 0.1)
    program = made("sleep 1000 & echo $! > other; read -r line; echo $$; sleep 1000")
    pid = int(program.ask("step"))
    program.close()
    assert gone(pid)
    assert gone(int((tmp_path / "other").read_text()))


def test_what_nobody_closes_ends_with_its_object():
    program = LineProgram(["sh", "-c", 'while read -r line; do echo "$$"; done'])
    program.start()
    pid = int(program.ask("step"))
    del program
    gc.collect()
    assert gone(pid)


def test_much_on_stderr_neither_blocks_nor_stays(made, monkeypatch):
    monkeypatch.setattr(physgym.adapters.line_program, "LARGEST_ERRORS", 1000)
    program = made("while read -r line; do yes | head -c 300000 >&2; echo kept >&2; echo $line; done")
    assert program.ask("step") == "step"
    program.start()
    assert program._running._last_words().endswith("nothing to stderr")
    assert program.ask("step") == "step"
    assert program._running._last_words().endswith("  y\n  kept")


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"command": "pendulum"}, "command is a list of words"),
        ({"command": ["no-such-program"]}, "there is no program 'no-such-program'"),
        ({"timeout": 0}, "timeout must be positive"),
        ({"reject": "("}, "reject: .* no regular expression"),
        ({"variables": ["A=1"]}, "variables must be a mapping"),
    ],
)
def test_wrong_arguments_are_named(wrong, error):
    with pytest.raises(ConfigError, match=error):
        LineProgram(**{"command": ["sh"], **wrong})


def test_what_cannot_be_started_is_named(tmp_path):
    (tmp_path / "text").write_text("no program")
    with pytest.raises(SimulatorError, match=r"text cannot be started: .*Permission denied"):
        LineProgram([str(tmp_path / "text")]).start()


@pytest.mark.parametrize("word", ["two\nlines", "\udcff", {"a": 1}, 1j], ids=ascii)
def test_what_makes_no_line_is_refused_and_the_program_goes_on(made, word):
    program = made()
    with pytest.raises(WrongValue):
        program.ask("step", word)
    assert program.ask("step") == "step"


def test_files_and_variables_of_the_program(tmp_path):
    (tmp_path / "mesh.txt").write_text("7\n")
    script = 'while read -r line; do echo "$(cat mesh.txt) $HEAT"; done'
    program = LineProgram(["sh", "-c", script, "mesh.txt", "x" * 300], folder=tmp_path, variables={"HEAT": "3"})
    program.start()
    assert program.ask("step") == "7 3"
    assert program.files_read[1:] == [tmp_path / "mesh.txt"]
    program.close()
