"""How well a base model's tokenizer reads a site's own records: measured before anything is spent.

A model learns nothing from tokens that it does not know, and spends the patients' budget all the same. So each site
counts, on its own records, unknown tokens, records that say nothing, and records that are cut; its owner sees the
figures before deciding, and the policy sets how much of it is too much. They are figures about patients, told to the
owner and to nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secfed.errors import UserError
from secfed.models.data import Record, encode

if TYPE_CHECKING:
    from secfed.node.sites import Site


@dataclass(frozen=True, slots=True)
class TextFigures:
    """What a tokenizer makes of records, within the length that the model reads."""

    records: int
    tokens: int
    """Of all records together, without those that the tokenizer adds to every text."""
    unknown: int
    """Of these, tokens that stand for something which the model does not know."""
    unreadable: int
    """Records without any token that the model knows."""
    cut: int
    """Records that are longer than the model reads: the rest of them is not used."""

    @property
    def unknown_share(self) -> float:
        """Of the tokens; 0 where there are none."""
        return self.unknown / self.tokens if self.tokens else 0.0

    @property
    def unreadable_share(self) -> float:
        """Of the records."""
        return self.unreadable / self.records

    @property
    def cut_share(self) -> float:
        """Of the records."""
        return self.cut / self.records


def measure(patients: Mapping[str, Sequence[Record]], tokenizer: Any, max_length: int) -> TextFigures:
    """Count what becomes of a site's records.

    Args:
        patients: at least one, by id.
        tokenizer: a transformers tokenizer.
        max_length: tokens per record, from the study.
    """
    records = tokens = unknown = unreadable = cut = 0
    texts = [record.text for own in patients.values() for record in own]
    for batch in encode(texts, tokenizer, max_length + 1):  # one more than is read: this one was cut
        for ids, added in zip(batch["input_ids"], batch["special_tokens_mask"], strict=True):
            length = len(ids)
            own = [token for token, special in zip(ids, added, strict=True) if not special][:max_length]
            strange = sum(token == tokenizer.unk_token_id for token in own)
            records, cut = records + 1, cut + (length > max_length)
            tokens, unknown, unreadable = tokens + len(own), unknown + strange, unreadable + (strange == len(own))
    return TextFigures(records, tokens, unknown, unreadable, cut)


def check_texts(site: Site, tokenizer: Any, max_length: int) -> TextFigures:
    """Measure a site's records, and refuse them where its policy does. Writes nothing, spends nothing.

    Raises:
        UserError: a share is above what the policy allows. The text tells it: it is for the site's owner alone.
    """
    figures, allowed = measure(site.patients, tokenizer, max_length), site.policy.texts
    for share, key, what in _shares(figures, max_length):
        most = getattr(allowed, key)
        if share > most:
            raise UserError(
                f"{_percent(share)} of {site.name}'s {what}, and its policy allows {_percent(most)}. This is told "
                "here and to nobody else, and nothing is spent",
                "Check the text column, and have a study signed whose base model reads these records; or if the "
                f"site's owner stands by it, raise texts.{key} in its policy.toml",
            )
    return figures


def told(figures: Mapping[str, TextFigures]) -> str:
    """The figures in a line; where there are several sites, the worst of each, with its name.

    Args:
        figures: by site, at least one.
    """
    return "; ".join(
        [
            _worst({name: each.unknown_share for name, each in figures.items()}, "tokens unknown to this model"),
            _worst(
                {name: each.unreadable_share for name, each in figures.items()}, "records without one that it knows"
            ),
            _worst({name: each.cut_share for name, each in figures.items()}, "records longer than it reads, and cut"),
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
        (figures.cut_share, "cut_at_most", f"records are longer than the study's {max_length} tokens, and cut"),
    )


def _percent(share: float) -> str:
    """Never rounded to nothing: some is not none."""
    return f"{100 * share:.1f} %" if share == 0 or share >= 0.001 else "less than 0.1 %"
