"""What the report's two lists (`secfed.reports.caveats`) say where the unit of privacy is a node with all its data."""

from __future__ import annotations

from dp.events import Unit
from secfed.files.figures import rounded_up
from secfed.reports.risk import Risk
from secfed.reports.vouchers import Statement, Voucher, not_said
from secfed.study.manifest import Study
from secfed.study.privacy import DistributedPrivacy


def protects_nodes(study: Study) -> bool:
    """Whether each node of this study is one unit of privacy."""
    return study.privacy.protects is Unit.NODE


def mechanism(privacy: DistributedPrivacy) -> list[Statement]:
    """What a node contributes, apart from noise."""
    once = (
        "the whole change that local training makes is clipped once, rounded toward zero, and its norm checked in "
        "whole numbers; nothing is assumed of the training behind it"
    )
    attendance = Statement(
        "When a node takes part does not depend on what is in its data",
        Voucher.ASSUMED,
        "attendance is seen by everybody, and the guarantee is for what a node contributes",
    )
    if privacy.adaptive_clip is None:
        longest = f"No node contributes an update longer than C = {privacy.clip:g}"
        return [Statement(longest, Voucher.TESTED, once), attendance]
    longest = "No node contributes an update longer than C of that round, indicator included"
    return [
        Statement(longest, Voucher.TESTED, once),
        Statement(
            "A clipping norm chosen from earlier sums costs nothing more",
            Voucher.TESTED,
            "noise is in proportion to C: in whole numbers every round has the same largest norm and the same noise",
        ),
        attendance,
    ]


def said() -> list[Statement]:
    """What only people can know."""
    return [
        not_said(
            "A node with all its data is what is to be protected",
            "all people in it are protected together; what somebody pays who is in the data of two nodes is said in "
            "section 3",
        ),
        not_said(
            "The study's figures were chosen without looking at the nodes' records",
            "tuning runs on the same nodes have to be booked as studies of their own",
        ),
    ]


def not_protected_people(risk: Risk) -> list[tuple[str, str]]:
    """Whom the guarantee does not cover, or otherwise than it seems."""
    exchange = rounded_up(risk.epsilon_replace_one, 2)
    return [
        (
            "Findings about people in general",
            "What the model learns about a population applies to everyone in it, whether their node took part or not.",
        ),
        (
            "Single people in a node's data",
            "The people behind one node (a household, say) are protected together. The figure at the top compares all "
            "of a node's data with zero; whether one person or one event is in it is a change of the data, with an "
            f"epsilon of at most {exchange}.",
        ),
        (
            "Somebody who is in the data of several nodes",
            f"They pay at each. What two nodes contribute is hidden together with an epsilon of {exchange} only, and "
            "what three and more do with a higher one.",
        ),
    ]


def who_takes_part() -> tuple[str, str]:
    """What is known of a node."""
    return (
        "That a node takes part, and when",
        "The nodes' names and their attendance in every round are known to all parties. Hidden is what a node "
        "contributes. One that stays away because of what is in its data shows that.",
    )
