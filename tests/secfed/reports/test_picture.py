"""The report's one picture: a curve for all with the same figures, inside its frame, whatever they are."""

from __future__ import annotations

import copy
import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secfed.reports.html import render_report
from secfed.reports.privacy import build_report
from secfed.reports.svg import Curve, epsilon_plot
from tests.secfed.reports.test_reports import SVG, _study, _summary


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    study = _study()
    return build_report(study, _summary(study))


def _curve_ends(svg: str) -> list[tuple[float, float]]:
    """Where every curve ends, from its path's last H and V."""
    ends = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):  # noqa: S314 - our own picture
        horizontal = re.findall(r"H([\d.]+)", path.attrib["d"])
        vertical = re.findall(r"V([\d.]+)", path.attrib["d"])
        ends.append((float(horizontal[-1]), float(vertical[-1])))
    return ends


@given(
    st.lists(st.floats(0.001, 50), min_size=1, max_size=30).map(sorted),
    st.floats(0.01, 100),
    st.integers(0, 100),
)
def test_the_plot_is_xml_and_everything_lies_inside_it(values: list[float], budget: float, more_rounds: int) -> None:
    svg = epsilon_plot([Curve("all", tuple(values))], [budget], len(values) + more_rounds)
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own picture
    _, _, width, height = (float(number) for number in root.attrib["viewBox"].split())
    (x, y) = _curve_ends(svg)[0]
    assert 0 < x <= width
    assert 0 < y <= height
    line = next(each for each in root.iter(f"{SVG}line") if each.attrib["class"] == "budget")
    assert 0 < float(line.attrib["y1"]) < height
    # Whatever is larger lies higher, to within the picture's tenth of a unit.
    if values[-1] < budget:
        assert y >= float(line.attrib["y1"]) - 0.1
    else:
        assert y <= float(line.attrib["y1"]) + 0.1


def test_hospitals_with_the_same_figures_share_a_curve_and_others_have_their_own(report: dict[str, Any]) -> None:
    def plot(page: str) -> str:
        return page[page.index("<svg") : page.index("</svg>") + 6]

    together = plot(render_report(report))
    assert len(_curve_ends(together)) == 1
    assert "every site" in together
    changed = copy.deepcopy(report)
    changed["hospitals"][2]["epsilon_by_round"] = [1.0, 1.0, 1.5]
    apart = plot(render_report(changed))
    assert len(_curve_ends(apart)) == 2
    assert "north and south" in apart
    (_, most), (_, least) = _curve_ends(apart)
    assert most < least


def test_many_different_hospitals_are_drawn_as_the_most_and_the_least_spent(report: dict[str, Any]) -> None:
    changed = copy.deepcopy(report)
    changed["hospitals"] = [
        {**changed["hospitals"][0], "name": f"site-{index}", "epsilon_by_round": [1.0, 1.0 + index / 10]}
        for index in range(9)
    ]
    page = render_report(changed)
    svg = page[page.index("<svg") : page.index("</svg>") + 6]
    assert "most spent: 1.80 after round 2; least spent: 1.00 after round 2" in svg
    assert len(_curve_ends(svg)) == 2
