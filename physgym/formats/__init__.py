"""Other file formats, to and from which a dataset is converted. A module imports the library that it needs."""
