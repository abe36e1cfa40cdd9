"""Agents, and what records them."""
