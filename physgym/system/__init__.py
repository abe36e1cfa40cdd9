"""The operating system: processes and their trees, descriptors, cores, memory, room on the disk."""
