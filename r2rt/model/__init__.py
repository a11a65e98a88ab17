"""The model: what a bundle is, where models are kept, and how they are fetched."""
