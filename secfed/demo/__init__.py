"""A whole federation on one machine, made up: to see it work, and to copy from."""
