"""Places where scenes are shown: a window, a web page, a recording."""
