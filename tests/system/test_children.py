"""Children that end with their parent, trees of processes, and descriptors that are not the standard ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from physgym.system import children
from physgym.system import process_tree as tree
from physgym.system.children import Child
from physgym.system.descriptors import above_standard
from tests.support.processes import not_ended

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and F_SETSIG")

PYTHON = sys.executable
FAMILY = """
import os, subprocess, time
plain = subprocess.Popen(["sleep", "60"])
alone = subprocess.Popen(["sleep", "60"], start_new_session=True)
bare = subprocess.Popen(["sleep", "60"], start_new_session=True, env={"PATH": os.environ["PATH"]})
orphan = int(subprocess.check_output("setsid sleep 60 > /dev/null & echo $!", shell=True))
time.sleep(0.1)
print(plain.pid, alone.pid, bare.pid, orphan, flush=True)
time.sleep(60)
"""


def family(child: Child) -> list[psutil.Process]:
    assert child.process.stdout is not None
    return [psutil.Process(int(pid)) for pid in child.process.stdout.readline().split()]


@pytest.mark.slow
def test_a_child_ends_with_all_that_it_has_started():
    with Child([PYTHON, "-c", FAMILY], stdout=subprocess.PIPE) as child:
        found = family(child)
        assert {process.pid for process in found} <= {process.pid for process in tree.members([child._tree])}
    assert child.process.returncode == -signal.SIGKILL
    assert not not_ended(process.pid for process in found)
    child.end()


@pytest.mark.slow
def test_a_child_that_has_ended_leaves_nothing():
    with Child([PYTHON, "-c", FAMILY.replace("time.sleep(60)\n", "")], stdout=subprocess.PIPE) as child:
        plain, alone, bare, orphan = family(child)
        assert child.process.wait(60) == 0
    assert not not_ended(process.pid for process in (plain, alone, orphan))
    bare.kill()  # with another environment, in a session of its own, of a parent that is gone: nobody knows it


@pytest.mark.slow
@pytest.mark.parametrize("stop", [False, True])
def test_a_child_ends_with_a_killed_parent(stop):
    program = f"""
import os, signal, sys, time
from physgym.system.children import Child
child = Child(["sh", "-c", "sleep 60 & echo $!; wait"])
{"os.kill(child.pid, signal.SIGSTOP)" if stop else ""}
if os.fork() == 0: time.sleep(5); os._exit(0)  # a fork does not hold the parent_pipe
print("child", child.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([PYTHON, "-c", program], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        lines = [parent.stdout.readline().split()]
        while len(lines) < (1 if stop else 2) or not any(line[0] == b"child" for line in lines):  # once it is a parent
            lines.append(parent.stdout.readline().split())
        found = [psutil.Process(int(line[-1])) for line in lines]
        everybody = psutil.Process(parent.pid).children(recursive=True)
    finally:
        parent.kill()
        parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()
    assert not not_ended(process.pid for process in found)
    for process in psutil.wait_procs(everybody, 0)[1]:
        process.kill()


def test_a_tree_is_not_that_of_somebody_who_got_the_same_number():
    with Child(["sh", "-c", "sleep 60 & wait"]) as child:
        root = child._tree.root
        assert root is not None
        time.sleep(0.1)
        other = tree.Process(root.pid, root.parent, root.group, root.session, root.start - 1, False)
        assert tree.members([tree.Tree(root)])
        assert tree.members([tree.Tree(other)]) == []
        tree.send(other, signal.SIGKILL)
        assert child.process.poll() is None


def test_this_process_and_those_before_it_are_in_no_tree():
    mine, before = tree.look(os.getpid()), tree.look(os.getppid())
    assert {os.getpid(), os.getppid()}.isdisjoint(p.pid for p in tree.members([tree.Tree(mine), tree.Tree(before)]))
    assert tree.look(0) is None


def test_marks_are_kept_where_a_tree_grows_within_a_tree():
    assert tree.marked({}, "a") == {tree.MARK: "a"}
    assert tree.marked(tree.marked({"x": "y"}, "a"), "b") == {"x": "y", tree.MARK: "a:b"}
    assert tree.marked({tree.MARK: "a:b"}, "a") == {tree.MARK: "b:a"}


def test_what_a_program_prints_is_taken_without_waiting_for_others_that_hold_its_output():
    before = time.monotonic()
    done = children.capture(["sh", "-c", "cat; echo no >&2; setsid sleep 20 & exit 3"], stdin=b"yes\n", timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == (b"yes\n", b"no\n", 3)
    assert time.monotonic() - before < 15


@pytest.mark.slow
def test_a_program_that_takes_too_long_is_ended_with_what_it_has_started(tmp_path):
    with pytest.raises(subprocess.TimeoutExpired):
        children.capture(["sh", "-c", "setsid sleep 60 & echo $! > pid; wait"], timeout=3, cwd=tmp_path)
    sleeper = tree.look(int((tmp_path / "pid").read_text()))
    assert sleeper is None or sleeper.dead
    with pytest.raises(FileNotFoundError):
        children.capture([str(tmp_path / "nothing")], timeout=1)


CLOSED = """
import os, sys
os.close({number})
import physgym
from physgym.system.children import ParentPipe
from physgym.system.descriptors import above_standard, fill_standard
assert os.readlink("/proc/self/fd/{number}") == "/dev/null", os.readlink("/proc/self/fd/{number}")
assert os.get_inheritable({number})
os.close({number})
parent_pipe = ParentPipe()
assert min(parent_pipe.read, parent_pipe.write) > 2
moved = above_standard(os.open("/", os.O_RDONLY))
assert moved > 2 and os.readlink(f"/proc/self/fd/{{moved}}") == "/"
fill_standard()
fill_standard()
assert os.readlink("/proc/self/fd/{number}") == "/dev/null"
"""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_standard_descriptors_that_are_closed_stay_free_of_files(number):
    done = subprocess.run([PYTHON, "-c", CLOSED.format(number=number)], timeout=110, check=False)
    assert done.returncode == 0


def test_other_descriptors_stay_what_they_are(tmp_path):
    file = os.open(tmp_path, os.O_RDONLY)
    assert above_standard(file) == file
    os.close(file)
    assert len(list(Path("/proc/self/fd").iterdir())) > 2
