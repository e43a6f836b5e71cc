"""What a finished run is evidence of: every byte of it changed, and every way to take it up again."""
