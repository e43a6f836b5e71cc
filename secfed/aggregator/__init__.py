"""The untrusted party: the loop over the rounds, what it remembers, and the finished run's folder."""
