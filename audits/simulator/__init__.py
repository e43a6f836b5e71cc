"""A federation in one process for attacks: it tracks who sees what, who holds which key, and who lies."""
