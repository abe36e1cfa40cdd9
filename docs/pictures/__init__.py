"""Make the pictures of the gallery anew from what the examples compute: `make gallery`.

A function of a module makes the picture of the example that has its name. It runs the example as a user does, in a work
folder that keeps what it has trained, and draws what it reads there.
"""
