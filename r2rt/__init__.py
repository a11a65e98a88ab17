"""r2rt finds moments in videos from a sentence."""
