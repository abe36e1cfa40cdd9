"""Experiments: configuration files, session folders, the command line. Only here do files become objects."""
