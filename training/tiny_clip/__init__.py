"""The tiny CLIP of the emoji world: its configuration, its training, its zero-shot evaluation."""
