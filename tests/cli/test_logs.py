"""How much commands say: --verbose, --quiet and --log-file."""

from __future__ import annotations

import logging
import re
import sys
import warnings

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from physgym import cli
from physgym.cli.app import Commands
from physgym.errors import ConfigError
from physgym.progress import Progress, say

BRIEF = {
    *("new", "schema", "list", "show", "keys", "compare", "doctor"),
    *("simulators request", "simulators ping", "simulators release", "simulators kill", "simulators list"),
}
OPTIONS = {"-v", "--verbose", "-q", "--quiet", "--log-file"}


def commands(command=None, path=()):
    command = command or get_command(cli.app)
    inner = getattr(command, "commands", {})
    if not inner:
        yield " ".join(path), {option for one in command.params for option in one.opts}
    for name, one in inner.items():
        yield from commands(one, (*path, name))


def test_all_commands_but_brief_ones_have_the_options():
    options = dict(commands())
    assert {name for name, has in options.items() if not has & OPTIONS} == BRIEF
    assert all(has >= OPTIONS for name, has in options.items() if name not in BRIEF)


app = Commands()


@app.command()
def count(end: str = "") -> None:
    """Count sheep."""
    log = logging.getLogger("physgym.sheep")
    say("counting")
    with Progress(2, "count", "sheep") as bar:
        bar.update(2)
    log.debug("a small one")
    log.info("a black one")
    log.warning("a wolf")
    logging.getLogger("elsewhere").info("not ours")
    warnings.warn("a dog", UserWarning, stacklevel=1)
    typer.echo("2 sheep")
    if end == "error":
        raise ConfigError("no sheep:\nnone")
    if end == "exit":
        raise typer.Exit(3)
    if end == "interrupt":
        raise KeyboardInterrupt("stopped; go on with physgym count")
    if end == "fault":
        raise RuntimeError("sheep are not countable")


def show(message, category, filename, lineno, file=None, line=None):
    """What Python does where nobody records warnings, as pytest does."""
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


@pytest.fixture
def run(monkeypatch):
    monkeypatch.setattr(warnings, "showwarning", show)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["physgym", "count", *arguments])
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            return CliRunner().invoke(app, list(arguments))

    yield run
    logger = logging.getLogger("physgym")
    assert (logger.handlers, logger.level) == ([], logging.NOTSET)


PROGRESS = "count: 2/2"


def test_what_is_said_by_default(run):
    done = run()
    assert done.stdout == "2 sheep\n"
    assert [text for text in ("counting", PROGRESS, "a dog") if text not in done.stderr] == []
    assert "a black one" not in done.stderr


def test_verbose_says_what_is_done_and_each_thing_once(run):
    done = run("-v")
    assert done.stdout == "2 sheep\n"
    texts = ("counting", PROGRESS, "a dog", "a small one", "a black one", "a wolf")
    assert [done.stderr.count(text) for text in texts] == [1, 1, 2, 1, 1, 1]  # a warning shows its line of code
    assert "not ours" not in done.stderr


def test_quiet_says_results_and_warnings_alone(run):
    done = run("--quiet")
    assert done.stdout == "2 sheep\n"
    assert "a dog" in done.stderr
    assert [text for text in ("counting", PROGRESS, "a black one") if text in done.stderr] == []
    assert PROGRESS in run().stderr  # the next command is not


LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR|CRITICAL) +\d+ physgym[.\w]*: .")


def test_a_log_file_has_everything_and_grows(run, tmp_path):
    file = tmp_path / "run.log"
    file.write_text("what was there\n")
    done = run("-q", "--log-file", str(file))
    assert done.stdout == "2 sheep\n"
    assert "a wolf" in done.stderr  # as without the file
    first, *lines = file.read_text().splitlines()
    assert first == "what was there"
    assert all(LINE.match(line) for line in lines)
    for text in ("physgym count -q --log-file", "Python 3", "counting", PROGRESS, "a small one", "a black one"):
        assert sum(text in line for line in lines) == 1
    assert sum("UserWarning: a dog" in line for line in lines) == 1
    assert "not ours" not in file.read_text()
    assert re.search(r"done after \d+\.\d s$", lines[-1])


@pytest.mark.parametrize(
    ("end", "texts"),
    [
        ("error", ["no sheep:\nnone", "ended by this error after"]),
        ("exit", ["ended with exit status 3 after"]),
        ("interrupt", ["stopped; go on with physgym count: after"]),
        ("fault", ["RuntimeError: sheep are not countable", "Traceback", "ended by it after"]),
    ],
)
def test_a_log_file_says_how_a_command_ended(run, tmp_path, end, texts):
    done = run("--end", end, "--log-file", str(tmp_path / "run.log"))
    assert done.exit_code
    text = (tmp_path / "run.log").read_text()
    assert [one for one in texts if one not in text] == []
    assert "done after" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-v", "-q"], "--verbose and --quiet contradict each other"),
        (["--log-file", "nowhere/run.log"], "--log-file nowhere/run.log: cannot write there: No such file"),
        (["--log-file", "."], "Is a directory"),
    ],
)
def test_wrong_options_are_an_error_before_anything_is_done(run, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_once_and_the_command_goes_on(run):
    done = run("-q", "--log-file", "/dev/full")
    assert done.exit_code == 0
    assert done.stdout == "2 sheep\n"
    assert done.stderr.count("--log-file /dev/full: No space left on device; lines are missing there") == 1


def test_options_of_several_values_end_before_these(tmp_path):
    from physgym.cli.flags import _spread

    assert _spread(["--delete", "a", "b", "-q"]) == ["--delete", "a", "--delete", "b", "-q"]
    assert _spread(["--find-replace", "a", "b", "-v"])[-1] == "-v"


@pytest.mark.slow
def test_a_generation_logs_its_workers_and_partitions(tmp_path, capsys):
    file, out = tmp_path / "run.log", tmp_path / "data"
    arguments = ["generate", "physgym/Spring-v0", "--out", str(out), "--samples", "20", "--max-steps", "5"]
    cli.app([*arguments, "-q", "--log-file", str(file)], standalone_mode=False)
    text = file.read_text()
    assert [one for one in ("worker 0 begins", "new partition", "seals", "generate: 20/20") if one not in text] == []
    assert "generate:" not in capsys.readouterr().err
