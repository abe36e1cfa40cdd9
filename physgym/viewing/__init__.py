"""Viewing what runs: frames from the simulations, the process in which they are shown, and the way there."""
