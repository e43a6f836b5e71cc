"""What the report's guarantee stands on, and what it does not cover: two lists, generated from the study.

Every assumption says how far this software vouches for it. `checked`: refused at run time or pinned by the test suite.
`attested`: only a person or an organisation can know it. `assumed`: taken as given, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secfed.figures import rounded_up
from secfed.privacy import DistributedPrivacy, LocalPrivacy
from secfed.reports import node_caveats
from secfed.reports.risk import Risk
from secfed.run_facts import RunKind
from secfed.study import Study


def assumptions(study: Study, apart: bool) -> list[dict[str, str]]:
    """Assumption, status (checked, attested or assumed), and how or why.

    Args:
        study: what was signed.
        apart: nodes ran on machines of their own.
    """
    privacy = study.privacy
    rows = [
        *(_local_rows(study) if isinstance(privacy, LocalPrivacy) else _distributed_rows(study, privacy, apart)),
        (
            "Denominators and weights are public",
            "checked",
            "all nodes weigh the same, and how many are in a sum is in its receipt"
            if node_caveats.protects_nodes(study)
            else "they come from the signed study, never from data",
        ),
        (
            "The budget was reserved for the whole study before training, and each round was booked before its upload",
            "checked",
            "the ledger refuses otherwise; its entries are chained and signed",
        ),
        *(node_caveats.attested_rows() if node_caveats.protects_nodes(study) else _attested_rows(study)),
    ]
    if apart:
        reason = "nobody can check another organisation's machine from outside"
        rows.append((f"Each {study.party} ran this software, unchanged, on a machine of its own", "assumed", reason))
    return [dict(zip(("assumption", "status", "how"), row, strict=True)) for row in rows]


def _attested_rows(study: Study) -> list[tuple[str, str, str]]:
    unit = study.privacy.protects.value
    return [
        (
            "One patient is one patient id, at one hospital",
            "attested",
            "each hospital knows its own ids; what it costs otherwise is said in section 1",
        )
        if unit == "patient"
        else (
            "One record is what is to be protected",
            "attested",
            "somebody who is in several records is not protected as a person",
        ),
        (
            "The study's figures were chosen without looking at the patients' records",
            "attested",
            "tuning runs on the same patients must be booked as studies of their own",
        ),
        (
            f"The nominal numbers of {unit}s reveal nothing about one {unit}",
            "attested",
            "they are rounded, and a person checked them at approval",
        ),
    ]


def _local_rows(study: Study) -> list[tuple[str, str, str]]:
    return [
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
            "The noise is Gaussian and nobody can guess it",
            "assumed",
            "real-number Gaussian: assumed; AES-256 and the operating system's random numbers are trusted",
        ),
    ]


def _distributed_rows(study: Study, privacy: DistributedPrivacy, apart: bool) -> list[tuple[str, str, str]]:
    shares = study.noise_shares
    rows = [
        *(node_caveats.mechanism_rows(privacy) if node_caveats.protects_nodes(study) else _drawn_rows(privacy)),
        (
            "The noise has the distribution that is accounted for",
            "checked",
            "whole-number sampler with a proof, compared with the exact distribution in tests; the "
            "difference is in delta",
        ),
        (
            "Nobody can guess the noise",
            "assumed",
            "AES-256 and the operating system's random numbers are trusted",
        ),
    ]
    if apart:
        rows += [
            (
                f"At most {shares.colluders} of the {study.party}s in a sum leak their noise, or fail to add it",
                "assumed",
                "noise is not proven: an organisation's machine cannot be checked from outside; section 1 says what "
                "more failures would cost",
            ),
            (
                f"Nobody sees a {study.party}'s upload without its masks",
                "checked",
                "the protocol's promise: specified, attacked in tests and explored exhaustively for small rosters; "
                "assumes that nobody breaks X25519 and ML-KEM-768 together, AES-256, SHA-256 or Ed25519",
            ),
        ]
    return rows


def _drawn_rows(privacy: DistributedPrivacy) -> list[tuple[str, str, str]]:
    unit = privacy.protects.value
    drawn = (
        f"Every {unit} is drawn by an independent secret coin with the same chance at every hospital",
        "checked",
        f"the rate is in the signed study; coins are keyed by the {unit}; a test removes one and compares what all "
        "others contribute, bit for bit",
    )
    once = "the sum over all its records is clipped once, rounded toward zero, and its norm checked in whole numbers"
    if privacy.adaptive_clip is None:
        return [drawn, (f"No {unit} contributes a gradient longer than C = {privacy.clip:g}", "checked", once)]
    return [
        drawn,
        (f"No {unit} contributes a gradient longer than C of that step, indicator included", "checked", once),
        (
            "A clipping norm chosen from earlier sums costs nothing more",
            "checked",
            "noise is in proportion to C: in whole numbers every step has the same largest norm and the same noise",
        ),
    ]


def not_protected(study: Study, risk: Risk, how: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the guarantee does not cover: a heading and a sentence each.

    Args:
        study: what was signed.
        risk: its figures.
        how: how it ran, as `secfed.run_facts.how_it_ran` gives it.
    """
    nodes, party = node_caveats.protects_nodes(study), study.party
    people, who = ("people", "node that") if nodes else ("staff", "patient who")
    work = "Local training is" if nodes else "Choosing records, batches and clipping are"
    whoever = "at every node" if nodes else "whoever is drawn"
    rows = [
        *(node_caveats.not_protected_people(risk) if nodes else _not_protected_patients(risk)),
        (
            f"The {party}'s own {people} and machines",
            f"Records, identity key and ledger are protected at each {party} by its own means, not by this guarantee.",
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
        node_caveats.who_takes_part()
        if nodes
        else (
            "Who takes part, and when",
            "The hospitals' names, their nominal numbers of patients and their attendance are known to all parties.",
        ),
        (
            "Duration and load",
            f"{work} the same work {whoever}, but how long a machine takes may still depend on its load, and by a "
            f"little on the numbers. A {party}'s policy can hold its uploads back to a fixed moment "
            f"(pace.upload_after_seconds); by their own words {how['held_back']} of {len(how['nodes'])} did.",
        ),
        (
            "The quality of the model",
            f"A {party} that sends bad updates on purpose can spoil the model. Its updates are hidden from inspection; "
            f"{_most(study)}.",
        ),
        ("Test figures", "Accuracy on the test set is computed outside the guarantee."),
        (
            "Withdrawal of consent",
            f"A {who} withdraws is left out from then on; what was spent and published stays.",
        ),
    ]
    if how["kind"] == RunKind.SIMULATION:
        reason = f"This run was a simulation: one process held every {party}'s records, keys and noise."
        rows.insert(0, ("Anything, from whoever ran this process", reason))
        return [{"what": what, "why": why} for what, why in rows]
    for names in reversed(how["on_one_machine"]):
        who = f"all {party}s" if how["kind"] == RunKind.DEMONSTRATION else ", ".join(names)
        reason = f"It ran {who}, as they have signed: nothing is claimed against whoever ran that machine."
        rows.insert(0, ("Anything, from whoever ran one machine", reason))
    return [{"what": what, "why": why} for what, why in rows]


def _not_protected_patients(risk: Risk) -> list[tuple[str, str]]:
    return [
        (
            "Findings about patients in general",
            "What the model learns about a population applies to everyone in it, whether they took part or not.",
        ),
        (
            "Other people named in the records",
            "A record is protected for the patient under whose id it is filed. A relative or a doctor who is mentioned "
            "in many records is not protected by it.",
        ),
        (
            "Patients known to several hospitals, or under several ids",
            f"Their epsilon is higher: {rounded_up(risk.epsilon_at_hospitals[1][1], 2)} with records at two hospitals, "
            f"{rounded_up(risk.epsilon_at_hospitals[2][1], 2)} at three.",
        ),
    ]


def _most(study: Study) -> str:
    """How far one hospital can move a sum."""
    if isinstance(study.privacy, LocalPrivacy):
        point = study.fixed_point
        return f"each element of them is limited to ±{point.limit / 2**point.fraction_bits:g}"
    return "what one of them can add to a sum is limited only by the certificate of section 5"
