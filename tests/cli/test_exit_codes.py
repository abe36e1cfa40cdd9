"""The codes with which commands end."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import physgym


def test_the_exit_code_of_ctrl_c_is_kept_where_it_came_in_code_of_a_text(tmp_path):
    text = """\
        import sys
        from physgym import cli


        def run():
            try:
                exec("raise KeyboardInterrupt")  # as in a dataclass of a module that is imported
            except KeyboardInterrupt:
                sys.exit(130)


        cli._run = run
        cli.main()
    """
    (tmp_path / "ended.py").write_text(textwrap.dedent(text))
    where = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(physgym.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run([sys.executable, "-m", "ended"], cwd=tmp_path, env=where, timeout=60)
    assert done.returncode == 130
