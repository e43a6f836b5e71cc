"""The signed study: what is trained, how privately, by whom, and everything that follows from it. No torch."""
