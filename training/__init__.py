"""The workbench's half that needs PyTorch: the model, its losses, checkpoints, data and trainer.

Used from a checkout and never installed; the runtime (`r2rt`) imports nothing of it.
"""
