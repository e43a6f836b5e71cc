"""A malicious aggregator and malicious nodes, one attack per file; `ATTACKS` lists them all."""

from audits.adversaries.attack import Attack
from audits.adversaries.bad_bytes import BAD_BYTES
from audits.adversaries.bad_dealer import InconsistentSeed, WrongShare
from audits.adversaries.bad_receipts import (
    ForgedReceipt,
    ForgedSum,
    HollowEcho,
    ReSignedReceipt,
    UnderSignedReceipt,
    UnderstatedCohort,
)
from audits.adversaries.bad_requests import BAD_REQUESTS
from audits.adversaries.bent_envelopes import ReflectedEnvelope, SwappedEnvelopes
from audits.adversaries.bent_sum import AddedOffset, EquivocatingSum, NegatedSum, ScaledSum, ZeroedSum
from audits.adversaries.both_shares import BothShares
from audits.adversaries.colluders import Colluders
from audits.adversaries.dropped_signatures import DroppedSignatures
from audits.adversaries.handovers import (
    AttendanceForAnotherStudy,
    ClosingAtAnOlderReceipt,
    HandoverInMidStudy,
    HandoverOfAnotherStudy,
    RoundAfterHandover,
)
from audits.adversaries.huge_clip import HugeClip
from audits.adversaries.key_substitution import KeySubstitution
from audits.adversaries.late_input import LateInput
from audits.adversaries.late_shrink import LateShrink
from audits.adversaries.one_signature import OneShare, OneSignature
from audits.adversaries.other_context import OtherModel, OtherRound, OtherStudy
from audits.adversaries.replayed_session import ReplayedSession
from audits.adversaries.restored_database import (
    ForgottenSpend,
    ForkedByRestored,
    RestoredInTwoCohorts,
    RestoredLedger,
    SecondSignature,
)
from audits.adversaries.round_numbers import HugeRound, RepeatedAttempts, RewoundRound
from audits.adversaries.split_sharers import SplitSharers
from audits.adversaries.split_survivors import SplitSurvivors
from audits.adversaries.sybils import Sybils
from audits.adversaries.tiny_ring import TinyRing
from audits.adversaries.two_cohorts import TwoCohorts
from audits.adversaries.two_receipts import TwoReceipts
from audits.adversaries.unequal_contributions import UnequalContributions
from audits.adversaries.unequal_views import HiddenAndDropped, HiddenColluder, HiddenHonestNodes
from audits.adversaries.withheld_receipt import WithheldReceipt

ATTACKS: tuple[Attack, ...] = (
    BothShares(),
    TwoCohorts(),
    SplitSharers(),
    SplitSurvivors(),
    KeySubstitution(),
    Sybils(),
    ReflectedEnvelope(),
    SwappedEnvelopes(),
    ReplayedSession(),
    OtherModel(),
    OtherStudy(),
    OtherRound(),
    OneSignature(),
    OneShare(),
    TinyRing(),
    HugeClip(),
    LateShrink(),
    LateInput(),
    DroppedSignatures(),
    RestoredLedger(),
    ForgottenSpend(),
    RestoredInTwoCohorts(),
    SecondSignature(),
    ForkedByRestored(),
    Colluders(),
    InconsistentSeed(),
    WrongShare(),
    UnequalContributions(),
    HiddenColluder(),
    HiddenHonestNodes(),
    HiddenAndDropped(),
    AddedOffset(),
    ScaledSum(),
    NegatedSum(),
    ZeroedSum(),
    EquivocatingSum(),
    TwoReceipts(),
    RewoundRound(),
    HugeRound(),
    RepeatedAttempts(),
    WithheldReceipt(),
    ReSignedReceipt(),
    ForgedReceipt(),
    UnderSignedReceipt(),
    UnderstatedCohort(),
    ForgedSum(),
    HollowEcho(),
    HandoverInMidStudy(),
    RoundAfterHandover(),
    ClosingAtAnOlderReceipt(),
    HandoverOfAnotherStudy(),
    AttendanceForAnotherStudy(),
    *BAD_BYTES,
    *BAD_REQUESTS,
)
