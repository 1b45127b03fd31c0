import re
from html.parser import HTMLParser

import pytest

from gptworks.errors import ConfigError
from gptworks.model import sizing
from gptworks.reports import page
from gptworks.runs import Run
from tests.reports.conftest import RESULT

VOID = {"meta", "input", "br", "hr", "link", "img"}


class Checker(HTMLParser):
    """Checks that tags are nested properly, and collects ids, links and text."""

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.text = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.note(attrs)

    def handle_startendtag(self, tag, attrs):
        self.note(attrs)

    def note(self, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def checked(html):
    parser = Checker()
    parser.feed(html)
    assert not parser.open
    assert len(set(parser.ids)) == len(parser.ids)
    return parser


def test_a_page_is_well_formed_and_loads_nothing_from_the_network(html):
    parser = checked(html)
    assert all(link.startswith("#") for link in parser.links)
    assert {link[1:] for link in parser.links} <= set(parser.ids)
    used = set(re.findall(r"url\(#([^)]+)\)", html))
    assert used
    assert used <= set(parser.ids)
    assert "default-src 'none'" in html


def test_a_page_shows_what_the_logs_contain(html):
    text = checked(html).text
    for words in (
        "40 of 40",
        "3.8000",
        "0.3123",
        "0.2900 to 0.3300",
        "dev",
        "2,000 examples",
        "3 were cut",
        "optim.lr",
    ):
        assert words in text, words
    assert "hellaswag_completion acc_norm" in text
    assert "GPT-2 124M" in text


def test_model_output_is_escaped(html):
    assert "<b>end</b>" not in html
    assert "&lt;b&gt;end&lt;/b&gt;" in html


def test_colours_come_from_the_page_so_that_dark_mode_works(html):
    pictures = "".join(re.findall(r"<svg.*?</svg>", html, re.DOTALL))
    assert "var(--c0)" in pictures
    assert not re.findall(r"(?:fill|stroke): #(?!000000)", pictures)


def test_a_comparison_lists_the_differences(logged):
    drawn = page.draw([logged("a"), logged("b", lr=0.5)])
    text = checked(page.html(drawn)).text
    assert "Differences" in text
    different = text.split("Differences")[1].split("Loss and scores")[0]
    assert "optim.lr" in different
    assert "0.5" in different
    assert "n_layer" not in different
    assert {"a", "b"} <= {
        label for p in drawn.pictures for label in p.figure.axes[0].get_legend_handles_labels()[1]
    }


def test_losses_are_drawn_against_every_axis_in_the_logs(drawn):
    assert list(drawn.losses) == ["steps", "tokens", "seconds", "FLOPs"]
    ends = {
        axis: max(line.get_xdata()[-1] for line in picture.figure.axes[0].lines)
        for axis, picture in drawn.losses.items()
    }
    config = drawn.logs[0].config
    assert ends["tokens"] == 128 * 40
    assert ends["seconds"] == pytest.approx(4.0)
    assert ends["FLOPs"] == pytest.approx(128 * 40 * sizing.flops_per_token(config))


def test_a_run_that_is_still_training_has_a_page(logged):
    run = logged(steps=7)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    (run / "results" / "half.json").write_text('{"rows": [')
    assert "7 of 40" in page.html(page.draw([run]))


def test_steps_that_were_not_finite_leave_a_gap_and_are_counted(logged):
    run = logged()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "tokens": 5248, "loss": NaN, "skipped": true, "seconds": 5}\n')
    assert "1 (not finite)" in page.html(page.draw([run]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: (run / "recipe.toml").unlink(), "recipe.toml"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "metrics.jsonl is missing or empty"),
        (
            lambda run: (run / "metrics.jsonl").rename(run / "campaign.json"),
            "GLUE campaign",
        ),
        (lambda run: (run / "recipe.toml").write_text("x = ["), "cannot be read"),
    ],
)
def test_folders_that_are_not_runs_are_refused(logged, spoil, message):
    run = logged()
    spoil(run)
    with pytest.raises(ConfigError, match=message):
        page.draw([run])


def test_pictures_are_the_same_each_time(drawn):
    again = page.draw([Run(log.path) for log in drawn.logs])
    assert [p.svg for p in again.pictures] == [p.svg for p in drawn.pictures]


def test_results_are_short_and_a_shared_note_is_shown_once(logged):
    """Two metrics of one task share a note; a row with other notes keeps its own."""
    huge = {"value": 118765128.0, "standard_error": 5380269165.21, "interval_95": [51884846.65, 3e8]}
    rows = [RESULT, RESULT | {"metric": "acc"} | huge, RESULT | {"notes": ["9 were cut"]}]
    text = checked(page.html(page.draw([logged(results=rows)]))).text
    assert (text.count("3 were cut"), text.count("9 were cut")) == (1, 1)
    assert re.search(r"acc\s*119M\s*51.9M to 300M\s*± 5.38B\s*2,000 examples", text)
