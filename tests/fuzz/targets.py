"""The table: every parser of a stranger's bytes. A new one belongs here."""

from __future__ import annotations

from pathlib import Path

from protocols.complaints import Complaint
from protocols.messages import FROM_AGGREGATOR, FROM_NODE
from protocols.receipts import Receipt
from secfed.rounds.channel import EchoRequest, Offer, RoundOpening, Standing, StudyClosing
from tests.fuzz.data_files import data_targets
from tests.fuzz.files import RunFolder, setting_targets, verifier_targets
from tests.fuzz.machines import WalkedRound, aggregator_targets, client_targets
from tests.fuzz.messages import message_targets, primitive_targets
from tests.fuzz.nodes import Recorded, node_targets
from tests.fuzz.target import Target

AROUND_A_ROUND = (RoundOpening, EchoRequest, StudyClosing, Offer, Standing, Complaint)


def make_targets(base: Path) -> dict[str, Target]:
    """All targets by name, with the messages of a real round, federation and run as their seeds.

    Args:
        base: an empty folder, for the files that some parsers read from.
    """
    walked = WalkedRound()
    recorded = Recorded(_folder(base / "federation"))
    run = RunFolder(_folder(base / "verified"))
    round_limits = walked.walk.config.limits
    targets = [
        *primitive_targets([*walked.messages, *recorded.messages]),
        *message_targets((*FROM_NODE, *FROM_AGGREGATOR, Receipt), round_limits, walked.messages),
        *message_targets(AROUND_A_ROUND, recorded.limits, recorded.messages),
        *client_targets(walked),
        *aggregator_targets(walked),
        *node_targets(recorded),
        *verifier_targets(run),
        *setting_targets(run, _folder(base / "settings")),
        *data_targets(_folder(base / "data")),
    ]
    return {target.name: target for target in targets}


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
