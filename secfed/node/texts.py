"""Measures how well a base model's tokenizer reads a site's own records, before anything is spent.

A model learns nothing from unknown tokens, but still spends the patients' budget on them. So each site counts, on its
own records, unknown tokens, records without any known token, and truncated records. The owner sees the figures before
deciding, and the policy sets the limits. The figures come from patients' records, so only the owner sees them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secfed.errors import UserError
from secfed.models.tasks import Kind, kind_of
from secfed.study.manifest import Study

if TYPE_CHECKING:
    from secfed.node.sites import Site


@dataclass(frozen=True, slots=True)
class TextFigures:
    """How a tokenizer reads records, within the length that the model reads."""

    records: int
    tokens: int
    """Tokens of all records together, without those that the tokenizer adds to every text."""
    unknown: int
    """How many of these stand for text that the model does not know."""
    unreadable: int
    """Records without any token that the model knows, or without one that is to be learnt."""
    cut: int
    """Records longer than the model reads; the rest of their text is not used."""

    @property
    def unknown_share(self) -> float:
        """Share of unknown tokens; 0 if there are no tokens."""
        return self.unknown / self.tokens if self.tokens else 0.0

    @property
    def unreadable_share(self) -> float:
        """Share of records without any known token."""
        return self.unreadable / self.records

    @property
    def cut_share(self) -> float:
        """Share of truncated records."""
        return self.cut / self.records


def measure(patients: Mapping[str, Sequence[Any]], tokenizer: Any, kind: Kind[Any, Any]) -> TextFigures:
    """Count how a tokenizer reads a site's records.

    Args:
        patients: at least one, by id.
        tokenizer: a transformers tokenizer.
        kind: what a record is, and how many tokens of it are read.
    """
    records = tokens = unknown = unreadable = cut = 0
    for reading in kind.readings([record for own in patients.values() for record in own], tokenizer):
        own = reading.tokens
        strange = sum(token == tokenizer.unk_token_id for token in own)
        records, cut = records + 1, cut + reading.cut
        tokens, unknown = tokens + len(own), unknown + strange
        unreadable += strange == len(own) or not reading.learnt
    return TextFigures(records, tokens, unknown, unreadable, cut)


def check_texts(site: Site, tokenizer: Any, study: Study) -> TextFigures:
    """Measure a site's records, and refuse them if the policy does. Writes nothing, spends nothing.

    Raises:
        UserError: a share is above what the policy allows. The text contains the share, so it is for the site's owner
            only.
    """
    figures, allowed = measure(site.patients, tokenizer, kind_of(study)), site.policy.texts
    for share, key, what in _shares(figures, study.model.max_length):
        most = getattr(allowed, key)
        if share > most:
            raise UserError(
                f"{_percent(share)} of {site.name}'s {what}, but its policy allows {_percent(most)}. Nothing was "
                "spent. This share is shown only here",
                "Check the text column. Ask for a study whose base model reads these records, or, if the site's "
                f"owner accepts the loss, raise texts.{key} in policy.toml",
            )
    return figures


def told(figures: Mapping[str, TextFigures]) -> str:
    """The figures in a line; for several sites, the worst of each figure, with the site's name.

    Args:
        figures: by site name, at least one.
    """
    return "; ".join(
        [
            _worst({name: each.unknown_share for name, each in figures.items()}, "tokens unknown to this model"),
            _worst({name: each.unreadable_share for name, each in figures.items()}, "records without any known token"),
            _worst(
                {name: each.cut_share for name, each in figures.items()},
                "records longer than the model reads, so truncated",
            ),
        ]
    )


def _worst(shares: Mapping[str, float], what: str) -> str:
    name = max(shares, key=lambda each: shares[each])
    if len(shares) == 1 or not shares[name]:
        return f"{_percent(shares[name])} {what}"
    return f"at most {_percent(shares[name])} {what} ({name})"


def _shares(figures: TextFigures, max_length: int) -> tuple[tuple[float, str, str], ...]:
    return (
        (figures.unknown_share, "unknown_at_most", "tokens are unknown to the study's base model"),
        (figures.unreadable_share, "unreadable_at_most", "records have no token that the study's base model knows"),
        (
            figures.cut_share,
            "cut_at_most",
            f"records are longer than the study's {max_length} tokens and are truncated",
        ),
    )


def _percent(share: float) -> str:
    """A share as text; a positive share is never shown as 0."""
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.001 else "less than 0.1 %"
