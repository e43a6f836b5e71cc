"""What the report's guarantee stands on, and what it does not cover: two lists, generated from the study.

Every assumption says how far this software vouches for it. `checked`: refused at run time or pinned by the test suite.
`attested`: only a person or an organisation can know it. `assumed`: taken as given, with the reason.
"""

from __future__ import annotations

from secfed.reports.risk import Risk, rounded_up
from secfed.study import Study


def assumptions(study: Study, simulation: bool) -> list[dict[str, str]]:
    """Assumption, status (checked, attested or assumed), and how or why."""
    rows = [
        (
            "Every patient is drawn by an independent secret coin with the same chance, one random record each",
            "checked",
            "coins and record choice are keyed by the patient's id; tests remove a patient and compare the others",
        ),
        (
            f"Nobody contributes a gradient longer than C = {study.privacy.clip:g}",
            "checked",
            "per-record gradients are clipped in float32; tests compare them with a loop over patients",
        ),
        (
            "Denominators and weights are public constants",
            "checked",
            "they come from the signed study, never from data",
        ),
        (
            "The budget was reserved for the whole study before training, and each round was booked before its upload",
            "checked",
            "the ledger refuses otherwise; its entries are chained and signed",
        ),
        (
            "The noise is Gaussian and nobody can guess it",
            "assumed",
            "real-number Gaussian: assumed; AES-256 and the operating system's random numbers are trusted",
        ),
        (
            "One patient is one patient id, at one hospital",
            "attested",
            "each hospital knows its own ids; what it costs otherwise is said in section 1",
        ),
        (
            "The study's figures were chosen without looking at the patients' records",
            "attested",
            "tuning runs on the same patients must be booked as studies of their own",
        ),
        (
            "The nominal numbers of patients reveal nothing about one patient",
            "attested",
            "they are rounded, and a person checked them at approval",
        ),
    ]
    if not simulation:
        reason = "nobody can check another organisation's machine from outside"
        rows.append(("Each hospital ran this software, unchanged, on a machine of its own", "assumed", reason))
    return [dict(zip(("assumption", "status", "how"), row, strict=True)) for row in rows]


def not_protected(study: Study, risk: Risk, simulation: bool) -> list[dict[str, str]]:
    """What the guarantee does not cover: a heading and a sentence each."""
    rows = [
        (
            "Findings about patients in general",
            "What the model learns about a population applies to everyone in it, whether they took part or not.",
        ),
        (
            "Other people named in the records",
            "The unit is the patient under whose id a record is filed. A relative or a doctor who is mentioned in the "
            "records of many patients is not protected by it.",
        ),
        (
            "Patients known to several hospitals, or under several ids",
            f"Their epsilon is higher: {rounded_up(risk.epsilon_at_hospitals[1][1], 2)} with records at two hospitals, "
            f"{rounded_up(risk.epsilon_at_hospitals[2][1], 2)} at three.",
        ),
        (
            "The hospital's own staff and machines",
            "Records, identity key and ledger are protected at each hospital by its own means, not by this guarantee.",
        ),
        (
            "What the base model knew before",
            f"Texts that “{study.model.base}” remembers from its own training, and its tokeniser, are outside this "
            "account.",
        ),
        (
            "Work outside this software",
            "Preprocessing, the choice of labels, and tuning runs made elsewhere are not in this ledger.",
        ),
        (
            "Who takes part, and when",
            "The hospitals' names, their nominal numbers of patients and their attendance are known to all parties.",
        ),
        (
            "Duration and load",
            "Batches have a fixed shape, but how long a machine takes may still depend on its load.",
        ),
        (
            "The quality of the model",
            "A hospital that sends bad updates on purpose can spoil the model. Its updates are hidden from inspection; "
            f"each element of them is limited to ±{study.encoding.bound:g}.",
        ),
        ("Test figures", "Accuracy on the test set is computed outside the guarantee."),
        (
            "Withdrawal of consent",
            "A patient who withdraws is left out from then on; what was spent and published stays.",
        ),
    ]
    if simulation:
        reason = "This run was a simulation: one process held every hospital's records, keys and noise."
        rows.insert(0, ("Anything, from whoever ran this process", reason))
    return [{"what": what, "why": why} for what, why in rows]
