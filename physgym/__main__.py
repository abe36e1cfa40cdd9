"""``python -m physgym`` is the command ``physgym``."""

from physgym.experiment.cli import main

if __name__ == "__main__":
    main()
