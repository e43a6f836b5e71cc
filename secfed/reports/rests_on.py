"""What the report's promise rests on, statement by statement, each with who vouches for it (`secfed.study.vouchers`).

Generated from the study, and from what people said in the nodes' ledgers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from secfed.rounds.run_facts import RunKind
from secfed.study.manifest import Study
from secfed.study.vouchers import Statement, Voucher

_BOOKED = Statement(
    "A round is booked before its upload leaves",
    Voucher.TESTED,
    "tests kill a node at every line, and compare what left it with what its ledger knows",
)


def statements(study: Study, summary: Mapping[str, Any], kind: RunKind) -> list[Statement]:
    """All statements. Those that anybody can check come first.

    Args:
        study: what was signed.
        summary: what `summary.json` holds.
        kind: how it ran.
    """
    mechanism = study.mechanism
    rows = [
        *_proved(study),
        *mechanism.rests_on_code(),
        _BOOKED,
        *mechanism.rests_on_people(),
        *_said_in_ledgers(study, summary),
        *([] if kind is RunKind.SIMULATION else [_unchanged(study, kind)]),
        *(mechanism.rests_on_others() if kind is RunKind.FEDERATION else []),
        *_coordinators_word(study),
    ]
    order = list(Voucher)
    return sorted(rows, key=lambda row: order.index(row.vouched_by))


def _proved(study: Study) -> list[Statement]:
    party = study.party
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
            "ledgers; each vouches for itself alone, and somebody who holds several keys can sign anything with them",
        ),
        ("Denominators and weights are public", study.mechanism.public_denominators),
    )
    return [Statement(what, Voucher.PROVED, how) for what, how in rows]


def _said_in_ledgers(study: Study, summary: Mapping[str, Any]) -> list[Statement]:
    """What owners said in their grants, which their nodes signed."""
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


def _unchanged(study: Study, kind: RunKind) -> Statement:
    where = ", on a machine of its own" if kind is RunKind.FEDERATION else ""
    return Statement(
        f"Each {study.party} ran this software, unchanged{where}",
        Voucher.ASSUMED,
        "nobody can check another organisation's machine from outside; each node itself says which machine it was",
    )


def _coordinators_word(study: Study) -> list[Statement]:
    measured = ", ".join(figure.title for figure in study.task.figures)
    rows = (
        (
            f"{measured.capitalize()} before and after",
            "nothing in the run's folder proves or refutes it",
        ),
        (
            "When it ran, how long, how many bytes were sent, the versions of software, and the engine's full name",
            "likewise; no figure of privacy uses them",
        ),
        ("At which stage somebody dropped out, and why a round gave no sum", "who is in a sum is in its receipt"),
    )
    return [Statement(what, Voucher.COORDINATOR, how) for what, how in rows]
