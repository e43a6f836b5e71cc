"""How this program writes and reads files, whatever is in them."""
