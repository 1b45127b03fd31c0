"""What is drawn is what was measured."""

import subprocess
import sys

import numpy as np
import pytest

from gptworks.errors import ConfigError, DataError
from gptworks.glue import plots, records, series
from gptworks.glue.overview import detailed, differences, overview
from gptworks.glue.records import GlueModel
from gptworks.glue.tasks import TASKS
from tests.glue.campaigns import checkpoint, make
from tests.reports.conftest import maker

GPT2 = GlueModel("gpt2", "gpt2")


def score(subject, task, metric, number):
    """Different everywhere, and known."""
    epoch = 20 if subject.epoch is None else subject.epoch
    return 0.4 + 0.01 * epoch + 0.02 * number + 0.05 * (metric in ("f1", "spearmanr"))


def names(pictures):
    return [picture.name for picture in pictures]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    subjects = [checkpoint(epoch) for epoch in (0.0, 0.1, 0.5, 1.0, 3.0)] + [GPT2]
    return make(folder / "c", subjects, tuple(TASKS), predict=False, score=score)


def lines(axes):
    return [(np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for line in axes.lines]


def test_the_overview_shows_means_kept_tries_guesses_and_other_models(campaign):
    drawn = overview(series.read([campaign]))
    panels = {axes.get_title(loc="left"): axes for axes in drawn.figure.axes}
    assert list(panels) == [task.title for task in TASKS.values()]
    x, mean = lines(panels["RTE"])[0]
    np.testing.assert_allclose(x, [0, 0.1, 0.5, 1, 3])
    np.testing.assert_allclose(mean, 44 + x)  # the mean of tries 1, 2, 3
    kept = next(y for x, y in lines(panels["RTE"]) if len(y) == 5 and not np.allclose(y, mean))
    np.testing.assert_allclose(kept, 46 + x)
    assert any(len(y) == 2 and np.allclose(y, 55) for _, y in lines(panels["RTE"]))  # the majority's line
    assert any(len(y) == 1 and np.allclose(y, 64) for _, y in lines(panels["RTE"]))  # GPT-2's point
    shade = panels["RTE"].collections[0].get_paths()[0].vertices
    assert shade[:, 1].min() == pytest.approx(42, abs=1e-6)
    assert shade[:, 1].max() == pytest.approx(49, abs=1e-6)
    f1, accuracy = (
        lines(panels["MRPC"])[0],
        next(line for line in lines(panels["MRPC"]) if np.isclose(line[1][0], 44)),
    )
    np.testing.assert_allclose(f1[1] - accuracy[1], 5)


def test_the_detailed_view_is_the_beginning_where_there_is_more(campaign, tmp_path):
    drawn = detailed(series.read([campaign]))
    np.testing.assert_allclose(lines(drawn.figure.axes[0])[0][0], [0, 0.1, 0.5, 1])
    whole = make(tmp_path / "w", [checkpoint(e) for e in (0.0, 1.0, 2.0, 3.0)], ["rte"], predict=False)
    assert detailed(series.read([whole])) is None
    early = make(tmp_path / "e", [checkpoint(e) for e in (0.0, 0.1, 0.2)], ["rte"], predict=False)
    assert detailed(series.read([early])) is None  # the overview shows it


def test_differences_are_of_two_runs_at_the_same_epochs(tmp_path):
    small = [checkpoint(e) for e in (0.0, 1.0, 2.0)]
    large = [checkpoint(e, "runs/large") for e in (0.0, 1.004, 4.0)]
    better = lambda s, task, metric, n: score(s, task, metric, n) + 0.03 * ("large" in s.model)  # noqa: E731
    campaign = make(tmp_path / "c", [*small, *large], ["rte", "stsb"], predict=False, score=better)
    material = series.read([campaign])
    assert [one.name for one in material.series] == ["small", "large"]
    drawn = differences(material, *material.series)
    x, y = lines(drawn.figure.axes[0])[0]
    np.testing.assert_allclose(x, [0, 1])
    np.testing.assert_allclose(y, 3, atol=0.01)
    assert "large minus small" in drawn.title
    other = make(tmp_path / "o", [checkpoint(9.0, "runs/other")], ["rte"], predict=False)
    material = series.read([campaign, other])
    assert differences(material, material.series[0], material.series[2]) is None


def test_two_campaigns_are_drawn_together(tmp_path):
    one = make(tmp_path / "one", [checkpoint(0.0)], ["rte"], predict=False, score=score)
    two = make(
        tmp_path / "two",
        [checkpoint(1.0), checkpoint(1.0, "runs/large")],
        ["wnli"],
        predict=False,
        score=score,
    )
    material = series.read([one, two])
    assert [(s.name, s.at("epoch")) for s in material.series] == [("small", [0.0, 1.0]), ("large", [1.0])]
    assert [task.name for task in material.tasks] == ["rte", "wnli"]
    assert "differences" in names(plots.draw([one, two]))  # both have WNLI after an epoch


def test_the_heat_map_has_every_cell_and_its_gain(campaign):
    drawn = plots.heatmap(series.read([campaign]))
    words = [text.get_text() for text in drawn.figure.axes[0].texts]
    assert len(words) == 2 * 6 * 9
    rte = [word for place, word in enumerate(words) if place // 2 % 9 == list(TASKS).index("rte")]
    assert rte[:4] == ["44.0", "-11.0", "44.1", "-10.9"]
    ticks = [tick.get_text() for tick in drawn.figure.axes[0].get_xticklabels()]
    assert ticks == ["0", "0.1", "0.5", "1", "3", "gpt2"]


def test_pretraining_is_drawn_where_its_logs_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    maker(tmp_path / "runs")("small")
    tokens = [
        GlueModel(f"s{step}", f"runs/small@step-{step}", step, min(step, 40) / 40, 128 * step)
        for step in (0, 20, 40, 10**7)  # the last of a longer run that was there before
    ]
    campaign = make(tmp_path / "c", tokens, ["rte"], predict=False)
    drawn = plots.pretraining(series.read([campaign]))
    axes = drawn.figure.axes[0]
    marks = [x[0] for x, y in lines(axes) if len(x) == 2 and x[0] == x[1]]
    np.testing.assert_allclose(marks, [0, 128 * 20, 128 * 40])
    validation = next(
        y for (x, y), line in zip(lines(axes), axes.lines, strict=True) if line.get_label() == "validation"
    )
    np.testing.assert_allclose(validation, [5.7, 5.3, 4.8, 4.3, 3.8])
    drawn.save(tmp_path / "saved")
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert plots.pretraining(series.read([campaign])) is None
    assert names(plots.draw([campaign])) == ["overview", "heatmap"]


def test_files_lie_in_the_campaign(tmp_path):
    campaign = make(tmp_path / "c", [GPT2], ["cola", "stsb"], tries=1, predict=False)
    files = plots.plot(campaign)
    assert [str(file.relative_to(campaign)) for file in files] == [
        "plots/overview.png", "plots/overview.svg", "plots/heatmap.png", "plots/heatmap.svg"
    ]  # fmt: skip
    assert all(file.stat().st_size > 1000 for file in files)
    svg = (campaign / "plots" / "overview.svg").read_text()
    assert ">CoLA</text>" in svg
    again = plots.plot(campaign)
    assert (campaign / "plots" / "overview.svg").read_text() == svg
    assert again == files


def test_tokens_are_the_axis_where_epochs_are_not_known(tmp_path):
    subjects = [GlueModel(f"s{n}", f"runs/x@step-{n}", n, None, 1000 * n) for n in (0, 5)]
    assert series.read([make(tmp_path / "c", subjects, ["rte"], predict=False)]).axis == "tokens"


def test_there_must_be_something_to_draw(tmp_path):
    with pytest.raises(DataError, match=r"campaign\.json"):
        plots.plot(tmp_path)
    records.write_grid(tmp_path, records.Grid((GPT2,), ("rte",), {"rte": 1}))
    with pytest.raises(ConfigError, match="no finished cell"):
        plots.plot(tmp_path)
    assert not (tmp_path / "plots").exists()


def test_pictures_submissions_and_checks_need_no_torch():
    code = (
        "import sys, gptworks.glue.plots, gptworks.glue.submission, gptworks.glue.comparison\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
