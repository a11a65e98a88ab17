"""The development tools that need PyTorch: the model, its losses, checkpoints, data and trainer.

Used from a checkout and never installed; the runtime (`r2rt`) imports nothing of it.
"""
