"""The page's colours, computed: WCAG 2.2 AA contrasts in light and dark, and scales that need no colour vision."""

import re

import numpy as np
import pytest

from gptworks.serving.server import STATIC

THEME = (STATIC / "css" / "theme.css").read_text(encoding="utf-8")
COLOURS = {
    name: pair
    for name, *pair in re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", THEME)
}
SCHEMES = pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
LEVELS = [f"p{n}" for n in range(6)]
SIGNS = [f"{side}{n}" for side in ("for", "against") for n in range(1, 5)]

TEXT = [
    *((ink, ground) for ink in ("ink", "quiet") for ground in ("page", "card", "soft")),
    *(("ink", ground) for ground in [*LEVELS, *SIGNS]),
    ("accent", "card"),
    ("on-accent", "accent"),
    ("warn", "warn-soft"),
    ("page", "ink"),
]
"""Text on its ground: 4.5 to 1 (success criterion 1.4.3)."""

PARTS = [
    ("edge", "card"),
    ("accent", "card"),
    ("accent", "page"),
    ("accent", "soft"),
    ("for-line", "card"),
    ("against-line", "card"),
]
"""Edges of fields, bars, focus rings and lines: 3 to 1 (1.4.11)."""

DICHROMATS = {
    "protan": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}
"""Machado et al. 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency", severity 1."""


def linear(name, scheme):
    value = COLOURS[name][scheme]
    part = np.array([int(value[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    return float(rgb @ [0.2126, 0.7152, 0.0722])


def contrast(one, other, scheme):
    darker, lighter = sorted(luminance(linear(name, scheme)) for name in (one, other))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_formula_is_wcags():
    COLOURS["black"], COLOURS["white"] = ["#000000"] * 2, ["#ffffff"] * 2
    assert contrast("black", "white", 0) == pytest.approx(21)


def test_every_colour_of_the_page_is_in_the_theme():
    for sheet in (STATIC / "css").glob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert set(re.findall(r"var\(--([\w-]+)\)", text)) <= COLOURS.keys(), sheet
        if sheet.name != "theme.css":
            assert not re.findall(r"#[0-9a-fA-F]{3,8}\b(?=\s*[;},])", text), sheet


@SCHEMES
@pytest.mark.parametrize(("ink", "ground"), TEXT)
def test_text_can_be_read(ink, ground, scheme):
    assert contrast(ink, ground, scheme) >= 4.5


@SCHEMES
@pytest.mark.parametrize(("part", "ground"), PARTS)
def test_parts_can_be_told_apart(part, ground, scheme):
    assert contrast(part, ground, scheme) >= 3


@SCHEMES
@pytest.mark.parametrize("vision", [None, *DICHROMATS])
@pytest.mark.parametrize(
    "scale", [LEVELS, ["card", *SIGNS[:4]], ["card", *SIGNS[4:]]], ids=["probability", "for", "against"]
)
def test_a_scale_gets_steadily_stronger_for_every_eye(scale, vision, scheme):
    """Each step is at least 3 of CIE lightness, all in one direction."""
    matrix = np.eye(3) if vision is None else np.array(DICHROMATS[vision])
    seen = [luminance(np.clip(matrix @ linear(name, scheme), 0, 1)) for name in scale]
    lightness = np.array([116 * np.cbrt(y) - 16 if y > 0.008856 else 903.3 * y for y in seen])
    steps = np.diff(lightness) * (-1 if scheme == 0 else 1)
    assert (steps > 3).all(), steps


@SCHEMES
@pytest.mark.parametrize("vision", DICHROMATS)
def test_for_and_against_differ_to_every_eye(vision, scheme):
    """The strongest shades lie far apart in CIELAB (2 can just be told apart). Lines below say it as well."""

    def lab(name):
        rgb = np.clip(np.array(DICHROMATS[vision]) @ linear(name, scheme), 0, 1)
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
        x, y, z = np.cbrt(xyz / [0.9505, 1, 1.089])
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    assert np.linalg.norm(lab("for4") - lab("against4")) > 20
