"""What people who answer for privacy read after a run: the privacy budget report, as a page and as JSON.

`privacy` gathers the facts, `risk` turns the accounting into plain figures, `svg` draws, `html` writes. Nothing here
computes anything new about the run: every figure comes from the signed study, the run's summary, or the accountant.
"""
