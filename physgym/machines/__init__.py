"""Workers on other machines, which dial in: who lets them in, and what they run."""
