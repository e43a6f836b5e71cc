"""The signed document: what is trained, how privately, by whom, and what follows from it alone. No torch."""
