"""Demonstrations of ``physgym demo``."""
