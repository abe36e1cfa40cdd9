"""Run the README's code as a reader would: every block marked bash or python, in order, in a clone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# these take minutes or need a fresh machine; CI runs them, or smaller versions, on its own
ELSEWHERE = ("make ", "git clone", "python examples/beam.py", "tensorboard")


def main() -> None:
    """Run the blocks; the exit status is that of the first that fails."""
    folder, clone = Path(sys.argv[1]), Path(sys.argv[1]) / "clone"
    binaries = Path(sys.executable).parent
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True, timeout=120)
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    if not blocks:
        sys.exit("README.md has no code to run")
    for language, code in blocks:
        if language == "bash":
            lines = [line for line in code.splitlines() if line and not line.startswith(ELSEWHERE)]
            command = ["bash", "-euc", "\n".join(lines)]
        else:
            script = folder / "readme_block.py"  # not in the clone, which would have changes then
            script.write_text(code)
            command = [sys.executable, str(script)]
        sys.stdout.write(f"--- {language}\n{code}\n")
        sys.stdout.flush()
        subprocess.run(command, cwd=clone, env=environment, check=True, timeout=600)


if __name__ == "__main__":
    main()
