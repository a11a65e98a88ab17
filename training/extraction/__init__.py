"""Features from videos and queries: resumable, in parallel, shared out over machines."""
