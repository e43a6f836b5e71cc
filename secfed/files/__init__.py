"""Files as this program writes and reads them, whatever stands in them."""
