"""From frames and a sentence to moments: the session and every step of it."""
