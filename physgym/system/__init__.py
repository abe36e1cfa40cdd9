"""The operating system: processes and their trees, descriptors, memory, room on the disk."""
