"""Boards of other CPUs on this machine: their Debian, their Python, their instructions.

`recipe` says what a board's environment is made of, `root` makes it, `emulator` runs
programs in it. Nothing needs root, and nothing of the board runs while it is made.
"""
