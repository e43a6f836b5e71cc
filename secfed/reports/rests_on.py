"""What the report's promise rests on, statement by statement, each with who vouches for it (`secfed.reports.vouchers`).

Generated from the study, and from what the nodes' ledgers hold of people's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secfed.files.figures import in_words
from secfed.reports import node_caveats
from secfed.reports.vouchers import Statement, Voucher, not_said
from secfed.rounds.run_facts import RunKind
from secfed.study.manifest import Study
from secfed.study.privacy import DistributedPrivacy, LocalPrivacy

_RANDOMNESS = "AES-256 and the operating system's random numbers are trusted"
_BOOKED = Statement(
    "A round is booked before its upload leaves",
    Voucher.TESTED,
    "tests kill a node at every line, and compare what left it with what its ledger knows",
)


def statements(study: Study, summary: Mapping[str, Any], kind: RunKind) -> list[Statement]:
    """All of it, those first that anybody can check.

    Args:
        study: what was signed.
        summary: what `summary.json` holds.
        kind: how it ran.
    """
    privacy = study.privacy
    local = isinstance(privacy, LocalPrivacy)
    code = _local(study) if isinstance(privacy, LocalPrivacy) else _distributed(privacy)
    rows = [
        *_proved(study),
        *code,
        _BOOKED,
        *(node_caveats.said() if node_caveats.protects_nodes(study) else _said(study)),
        *_said_in_ledgers(study, summary),
        *([] if kind is RunKind.SIMULATION else [_unchanged(study, kind)]),
        *([] if local or kind is not RunKind.FEDERATION else _against_others(study)),
        *_coordinators_word(),
    ]
    order = list(Voucher)
    return sorted(rows, key=lambda row: order.index(row.vouched_by))


def _proved(study: Study) -> list[Statement]:
    nodes, party = node_caveats.protects_nodes(study), study.party
    rows = (
        (
            f"Every {party} of the roster signed this study, and its figures are those that were accounted for",
            "signatures under the study; `secfed verify` computes every epsilon again",
        ),
        (
            f"In every completed round a quorum of {party}s signed the same sum and survivors, and the adapter is what "
            "the sums lead to, bit for bit",
            "receipts, sums and the adapter's files",
        ),
        (
            f"Every {party} had reserved the whole study, and booked every round whose sum its update is in",
            "ledgers, whose entries are chained and signed; one that booked less is found",
        ),
        (
            f"Every {party} signed how it ran: what carried its messages, its process, home and machine, and whether "
            "it held uploads back",
            "ledgers; each vouches for itself alone, and whoever holds several keys can sign what they like with them",
        ),
        (
            "Denominators and weights are public",
            f"all {party}s weigh the same, and how many are in a sum is in its receipt"
            if nodes
            else "they are in the signed study",
        ),
    )
    return [Statement(what, Voucher.PROVED, how) for what, how in rows]


def _said(study: Study) -> list[Statement]:
    unit = study.privacy.protects.value
    one = (
        not_said(
            "One patient is one patient id, at one hospital",
            "each hospital knows its own ids; what it costs otherwise is said at the top",
        )
        if unit == "patient"
        else not_said(
            "One record is what is to be protected", "somebody who is in several records is not protected as a person"
        )
    )
    return [
        one,
        not_said(
            "The study's figures were chosen without looking at the patients' records",
            "tuning runs on the same patients have to be booked as studies of their own",
        ),
        not_said(
            f"The nominal numbers of {unit}s reveal nothing about one {unit}",
            "they are public, and a person has to have rounded them; a node checks only that its own is near",
        ),
    ]


def _said_in_ledgers(study: Study, summary: Mapping[str, Any]) -> list[Statement]:
    """Words that an owner's grant holds, which the node signed."""
    return [
        Statement(
            f"Nobody of “{each['population']}” at {each['name']} is in another population of the same {study.party}",
            Voucher.SAID,
            "somebody who is in two populations is promised one epsilon and pays two",
            f"owner of {each['name']}, in its signed ledger: “{each['disjoint']}”",
        )
        for each in summary["hospitals"]
        if each["disjoint"]
    ]


def _local(study: Study) -> list[Statement]:
    return [
        Statement(
            "Every patient is drawn by an independent secret coin with the same chance, one random record each",
            Voucher.TESTED,
            "coins and record choice are keyed by the patient's id; tests remove a patient and compare the others",
        ),
        Statement(
            f"Nobody contributes a gradient longer than C = {study.privacy.clip:g}",
            Voucher.TESTED,
            "per-record gradients are clipped in float32; tests compare them with a loop over patients",
        ),
        Statement(
            "The noise is Gaussian and nobody can guess it",
            Voucher.ASSUMED,
            f"real-number Gaussian: assumed; {_RANDOMNESS}",
        ),
    ]


def _distributed(privacy: DistributedPrivacy) -> list[Statement]:
    return [
        *(node_caveats.mechanism(privacy) if privacy.unit == "node" else _drawn(privacy)),
        Statement(
            "The noise has the distribution that is accounted for",
            Voucher.TESTED,
            "whole-number sampler with a proof, compared with the exact distribution in tests; the difference is in "
            "delta",
        ),
        Statement("Nobody can guess the noise", Voucher.ASSUMED, _RANDOMNESS),
    ]


def _drawn(privacy: DistributedPrivacy) -> list[Statement]:
    unit = privacy.protects.value
    drawn = Statement(
        f"Every {unit} is drawn by an independent secret coin with the same chance at every hospital",
        Voucher.TESTED,
        f"the rate is in the signed study; coins are keyed by the {unit}; a test removes one and compares what all "
        "others contribute, bit for bit",
    )
    once = "the sum over all its records is clipped once, rounded toward zero, and its norm checked in whole numbers"
    if privacy.adaptive_clip is None:
        clipped = f"No {unit} contributes a gradient longer than C = {privacy.clip:g}"
        return [drawn, Statement(clipped, Voucher.TESTED, once)]
    return [
        drawn,
        Statement(
            f"No {unit} contributes a gradient longer than C of that step, indicator included", Voucher.TESTED, once
        ),
        Statement(
            "A clipping norm chosen from earlier sums costs nothing more",
            Voucher.TESTED,
            "noise is in proportion to C: in whole numbers every step has the same largest norm and the same noise",
        ),
    ]


def _unchanged(study: Study, kind: RunKind) -> Statement:
    where = ", on a machine of its own" if kind is RunKind.FEDERATION else ""
    return Statement(
        f"Each {study.party} ran this software, unchanged{where}",
        Voucher.ASSUMED,
        "nobody can check another organisation's machine from outside; which machine it was, is each node's own word",
    )


def _against_others(study: Study) -> list[Statement]:
    """What the claim against the aggregator and the other parties needs besides."""
    shares, party = study.noise_shares, study.party
    return [
        Statement(
            f"No more than {in_words(shares.colluders)} of the {party}s in a sum "
            + ("works" if shares.colluders == 1 else "work")
            + " against the others, or leaks or leaves out noise",
            Voucher.ASSUMED,
            "noise is not proven: an organisation's machine cannot be checked from outside; what more failures would "
            "cost is in section 1",
        ),
        Statement(
            f"Nobody sees a {party}'s upload without its masks",
            Voucher.TESTED,
            "the protocol's promise: specified, attacked in tests and explored exhaustively for small rosters",
        ),
        Statement(
            "Nobody breaks X25519 and ML-KEM-768 together, AES-256, SHA-256 or Ed25519",
            Voucher.ASSUMED,
            "the masks and all signatures rest on them",
        ),
    ]


def _coordinators_word() -> list[Statement]:
    rows = (
        ("Accuracy before and after", "nothing in the run's folder proves or refutes it"),
        (
            "When it ran, how long, how many bytes were sent, the versions of software, and the engine's full name",
            "likewise; no figure of privacy uses them",
        ),
        ("At which stage somebody dropped out, and why a round gave no sum", "who is in a sum is in its receipt"),
    )
    return [Statement(what, Voucher.COORDINATOR, how) for what, how in rows]
