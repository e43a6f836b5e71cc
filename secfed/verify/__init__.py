"""The offline verifier: checks a run's folder against the study, the roster and itself. No torch, no network."""
