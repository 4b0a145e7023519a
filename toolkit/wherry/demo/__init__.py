"""The demo: the whole road on one machine, with the same commands that a user has."""
