"""The emoji world: open-licensed art composed into frames whose truth is known."""
