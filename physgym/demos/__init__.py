"""What ``physgym demo`` shows."""
