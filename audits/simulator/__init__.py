"""A federation in one process for attackers: who sees what, who holds which key, who lies."""
