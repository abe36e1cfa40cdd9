"""Files of VTK whose arrays are views of partitions: what of a dataset fits them, and how they are written."""
