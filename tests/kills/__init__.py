"""Commands that are killed at random moments: nothing is half-written, nothing is left.

`python -m tests.kills --kills 200` prints what became of each command.
"""
