"""How fast and how small: one harness, one yardstick, one command a question; see README.md."""
