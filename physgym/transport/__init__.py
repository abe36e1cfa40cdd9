"""Ways to move the bytes of the protocol, and the proof of who is at the other end."""
