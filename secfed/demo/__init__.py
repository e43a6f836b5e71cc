"""A made-up federation on one machine: to see it work, and to copy from."""
