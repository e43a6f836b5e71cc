"""Differential privacy, with the patient as its unit: training, accounting, the ledger of what is spent."""
