"""An examination of the machine and a folder: what works, and what to do otherwise; ``physgym doctor``."""
