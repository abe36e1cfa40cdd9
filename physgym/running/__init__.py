"""A trained network at work: inside the simulation, in place of it, and measured."""
