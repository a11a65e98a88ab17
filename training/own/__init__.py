"""From annotations of one's own videos to a model that runs: `python -m training.own`."""
