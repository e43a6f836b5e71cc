"""A malicious dealer: pair seeds or shares that differ from its commitments, signed with its own valid key."""

from __future__ import annotations

from audits.adversaries.attack import Attack
from audits.simulator.world import Conversation, Outcome, World, replaced
from crypto.kdf import digest
from protocols import sharing
from protocols.derivations import SEED_LABEL
from protocols.errors import RemoteError
from protocols.messages import SeedEnvelope, ShareCommitments, SharesEnvelope
from protocols.unmasking import Unmasking

DEALER = 0
RECEIVER = 3


class InconsistentSeed(Attack):
    """Dealer and receiver would add and subtract different masks, and the sum would be noise."""

    name = "a node with an inconsistent pair seed"
    goal = "spoil the sum for everybody without being named"

    def run(self) -> Outcome:
        world, talk = _open()
        share = talk.knowledge.shares[DEALER]
        talk.knowledge.shares[DEALER] = replaced(share, seeds=tuple(_other_seed(talk, entry) for entry in share.seeds))
        talk.deliver(world.everyone, world.everyone)
        talk.finish(world.everyone)
        named = any(
            isinstance(refusal.error, RemoteError) and refusal.error.sender == DEALER for refusal in world.refusals
        )
        return world.outcome(not named and not world.totals)


class WrongShare(Attack):
    """The receiver would release the share that it was dealt, and be blamed for changing it."""

    name = "a node with wrong shares"
    goal = "have an honest node named for a wrong share"

    def run(self) -> Outcome:
        world, talk = _open()
        share = talk.knowledge.shares[DEALER]
        bent = tuple(_miscommitted(talk, envelope) for envelope in share.shares)
        talk.knowledge.shares[DEALER] = replaced(share, shares=bent)
        talk.deliver(world.everyone, world.everyone)
        talk.announce(world.everyone, world.everyone)
        talk.agree(world.everyone, world.everyone)
        return world.outcome(_blamed(talk) == RECEIVER)


def _open() -> tuple[World, Conversation]:
    world = World(corrupt=(DEALER,))
    talk = Conversation(world)
    talk.advertise(world.everyone)
    talk.show_cohort(world.everyone, world.everyone)
    return world, talk


def _other_seed(talk: Conversation, envelope: SeedEnvelope) -> SeedEnvelope:
    if envelope.receiver != RECEIVER:
        return envelope
    session, key = talk.knowledge.session, talk.advertisements[RECEIVER].mask_key
    sealed = sharing._seal(key, digest("another seed"), SEED_LABEL, session, DEALER, RECEIVER)
    return sharing._signed(replaced(envelope, sealed=sealed), talk.world.keys[DEALER], session)


def _miscommitted(talk: Conversation, envelope: SharesEnvelope) -> SharesEnvelope:
    if envelope.receiver != RECEIVER:
        return envelope
    commitments = ShareCommitments(digest("another share"), envelope.commitments.mask_key)
    return sharing._signed(replaced(envelope, commitments=commitments), talk.world.keys[DEALER], talk.knowledge.session)


def _blamed(talk: Conversation) -> int | None:
    """The node that an honest aggregator names for the receiver's released shares; None when it released nothing."""
    learned, everyone = talk.knowledge, talk.world.everyone
    if RECEIVER not in learned.unmasks:
        return None
    unmasking = Unmasking(learned.session, learned.quorum, learned.advertisements, learned.shares, everyone, everyone)
    try:
        unmasking.check_shares(learned.unmasks[RECEIVER])
    except RemoteError as error:
        return error.sender
    return None
