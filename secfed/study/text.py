"""A study as people read it before they sign: every value that matters, and the roster."""

from __future__ import annotations

from collections.abc import Sequence

from secfed.errors import printable
from secfed.files.figures import scientific
from secfed.study.algorithms import describe
from secfed.study.manifest import Study


def study_text(study: Study, this_node: int | None = None) -> str:
    """The study as plain text, without its cost: the privacy plan shows that (`secfed.node.privacy_plan`).

    Args:
        study: the study to show.
        this_node: the reader's index in the roster, if the reader is on it.
    """
    lora, privacy = study.lora, study.privacy
    unit = privacy.protects.value
    layers = "all layers" if lora.layers is None else f"layers {', '.join(map(str, lora.layers))}"
    lines = [
        ("digest", study.digest.hex()),
        ("purpose", study.purpose),
        ("base model", f"{study.model.base}, {study.model.digest}"),
        *study.task.lines(study.model.max_length),
        (
            "adapter",
            f"LoRA rank {lora.rank}, alpha {lora.alpha}, on {', '.join(lora.targets)} in {layers}, {lora.variant}",
        ),
        ("moved by", f"{describe(study.algorithm)}, {study.algorithm.rounds} rounds"),
        (
            "promise",
            f"epsilon {privacy.epsilon:g} at delta {scientific(privacy.delta)} to each {unit}, {privacy.mode} mode",
        ),
        ("roster", f"{len(study.roster)} sites. Compare the fingerprints by telephone"),
    ]
    text = [f"study {study.name}", *in_columns(lines)]
    return "\n".join(printable(line) for line in [*text, *_roster(study, this_node)])


def _roster(study: Study, this_node: int | None) -> list[str]:
    lines = []
    for index, (entry, identity) in enumerate(zip(study.roster, study.identities, strict=True)):
        mark = " (this node)" if index == this_node else ""
        lines.append(f"    {entry.name}{mark}, about {entry.patients} {study.privacy.protects.value}s")
        lines.append(f"      fingerprint {identity.fingerprint()}")
        lines.append(f"      identity    {entry.identity}")
    return lines


NAME_WIDTH = 14


def how_it_is_kept(study: Study, tolerated: int) -> list[tuple[str, str]]:
    """Noise, sampling and cohort, as lines for a screen.

    Args:
        study: gives the figures.
        tolerated: how many sites may drop out of a round.
    """
    size = len(study.roster)
    return [
        ("noise", study.mechanism.noise_in_short),
        study.mechanism.work_in_short,
        (
            "cohort",
            f"{size} {study.party}s, quorum {study.cohort_rules().quorum(size)}, up to {tolerated} may drop out, "
            f"{study.cohort.colluders} may collude",
        ),
    ]


def in_columns(lines: Sequence[tuple[str, str]]) -> list[str]:
    """Lines for a screen: a name and its text."""
    return [f"  {name:<{NAME_WIDTH}}{text}" for name, text in lines]
