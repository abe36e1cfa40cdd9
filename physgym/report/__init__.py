"""Reports: a dataset, a session, a run or a search as one HTML file that needs neither network nor other files."""
