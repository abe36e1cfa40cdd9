"""What Sphinx is taught: pages from the schema and the command line, links from names to their pages."""
