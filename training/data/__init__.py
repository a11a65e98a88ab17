"""Annotations, features and batches: from the files that people have to what the losses read."""
