"""What a doctor found, for its tests."""

from __future__ import annotations

from secfed.findings import Finding


def states(findings: tuple[Finding, ...]) -> set[str]:
    return {f"{each.check}: {each.text}" for each in findings if each.state == "failed"}


def failed(findings: tuple[Finding, ...]) -> list[Finding]:
    found = [each for each in findings if each.state == "failed"]
    for each in found:
        assert each.text.isprintable()
        assert each.fix
    return found
