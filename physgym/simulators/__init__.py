"""A service that starts, lends and ends simulators which are programs of their own, and its clients."""
