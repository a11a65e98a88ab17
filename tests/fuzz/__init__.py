"""A seeded, bounded fuzzer of everything that reads what may come from anyone.

`python -m tests.fuzz --inputs 2000 --seed N` prints what became of the inputs of each kind.
"""
