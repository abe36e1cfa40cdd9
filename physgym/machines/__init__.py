"""Workers on other machines, which connect: who lets them in, and what they run."""
