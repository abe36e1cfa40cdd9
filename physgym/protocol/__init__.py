"""The wire protocol, both ends of it, without input or output."""
