"""``python -m physgym`` is the command ``physgym``."""

from physgym.cli import main

if __name__ == "__main__":
    main()
