"""Jobs of SLURM: the script of a configuration, and its submission."""
