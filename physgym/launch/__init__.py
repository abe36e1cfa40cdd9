"""Launchers: the ways in which workers come to be."""
