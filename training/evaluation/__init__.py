"""`python -m training.evaluate`: reading and checking lines, asking a model, tables and plots.

The metrics themselves are in `training.metrics`.
"""
