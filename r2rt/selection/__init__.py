"""What is chosen from predictions: highlights, summaries, sequences."""
