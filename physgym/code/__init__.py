"""The code of a simulation: found, hashed, recorded and compared."""
