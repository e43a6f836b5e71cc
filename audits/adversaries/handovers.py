"""Requests outside rounds: for a ledger before its study is over, and for answers about another study."""

from __future__ import annotations

from audits.adversaries import weakened
from audits.adversaries.round_numbers import FederationAttack
from audits.simulator.federation import FILE, ROUNDS, RULES, Federation
from audits.simulator.studies import study_of
from audits.simulator.world import VICTIM, Outcome
from protocols.receipts import Receipt
from protocols.wire import encode
from secfed.aggregator.handover import read_attendance, read_handover
from secfed.rounds.channel import Link, StudyClosing
from secfed.rounds.handover import AttendanceRequest, HandoverRequest
from secfed.study.manifest import Study
from secfed.study.signing import APPROVAL_LABEL


class _LedgerInMidStudy(FederationAttack):
    """After some rounds the aggregator asks for the victim's ledger, and then for one more round."""

    goal = "see a node's ledger in the middle of a study, and go on with its rounds"
    rounds = 1

    def attack(self, federation: Federation) -> Outcome:
        receipts = [_honest_round(federation, number) for number in range(1, self.rounds + 1)]
        for closing in self.closings(receipts):
            federation.send(VICTIM, encode(closing))
        end = federation.hand_over(VICTIM)
        joined = federation.open(VICTIM, federation.chain.context(self.rounds + 1).opening())
        return federation.log.outcome(end is not None and joined is not None)

    def closings(self, receipts: list[Receipt]) -> list[StudyClosing]:
        """What the aggregator tells the victim before."""
        return []


class HandoverInMidStudy(_LedgerInMidStudy):
    """Nobody has said that the study is over."""

    name = "handover asked for in mid-study"

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.over_when_asked(),)


class RoundAfterHandover(_LedgerInMidStudy):
    """The aggregator says that the study is over, gets the ledger, and opens another round all the same."""

    name = "round after a handover"

    def closings(self, receipts: list[Receipt]) -> list[StudyClosing]:
        return [StudyClosing((Link(receipts[-1], b""),))]


class ClosingAtAnOlderReceipt(_LedgerInMidStudy):
    """The aggregator says that the study ended at a receipt that the victim's chain has passed."""

    name = "handover after a closing at an older receipt"
    rounds = 2

    def closings(self, receipts: list[Receipt]) -> list[StudyClosing]:
        return [StudyClosing((Link(receipts[0], b""),))]

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.over_wherever_it_is_said(),)


class HandoverOfAnotherStudy(FederationAttack):
    """The study is over at the victim; the aggregator asks it about another one, in which it does not take part."""

    name = "handover asked for another study"
    goal = "have a node's ledger of one study taken for that of another"

    def attack(self, federation: Federation) -> Outcome:
        receipt, other = _honest_round(federation, 1), _other_study(federation)
        federation.send(VICTIM, encode(StudyClosing((Link(receipt, b""),))))
        answer = federation.send(VICTIM, encode(HandoverRequest(other.digest)))
        return federation.log.outcome(read_handover(other, VICTIM, answer) is not None)

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.copies_of_any_study(),)


class AttendanceForAnotherStudy(FederationAttack):
    """The aggregator asks the victim for its attendance in a study that it has not approved."""

    name = "attendance asked for another study"
    goal = "hold a node's approval of a study that it has not approved"

    def attack(self, federation: Federation) -> Outcome:
        other = _other_study(federation)
        answer = federation.send(VICTIM, encode(AttendanceRequest(other.digest)))
        return federation.log.outcome(read_attendance(other, FILE, VICTIM, answer) is not None)

    def weakenings(self) -> tuple[weakened.Weakening, ...]:
        return (weakened.unchecked_signatures(APPROVAL_LABEL),)


def _honest_round(federation: Federation, number: int) -> Receipt:
    """A round of all nodes, which all nodes adopt."""
    closed = federation.round(number, federation.everyone)
    if closed is None:
        raise RuntimeError("an honest round before the attack failed")
    federation.adopt(closed)
    return closed[0]


def _other_study(federation: Federation) -> Study:
    """A study with the same roster and fewer rounds."""
    return study_of(federation.keys, RULES, ROUNDS - 1)
