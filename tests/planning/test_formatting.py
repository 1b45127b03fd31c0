import pytest

from gptworks.planning import formatting

FACTS = {
    "parameters": 1_000_000,
    "n_layer": 4,
    "n_embd": 128,
    "context": 256,
    "device": "H100 80 GB",
    "devices": 1,
    "precision": "bf16",
    "parallel": "none",
    "batch_tokens": 8192,
    "micro_batch": 32,
    "micro_batches": 1,
    "memory": {"weights": 3_000_000_000, "low-precision copy": 0, "activations": 1_000_000_000},
    "memory_total": 4_000_000_000,
    "memory_room": 72_000_000_000,
    "fits": True,
    "change": None,
    "tokens": None,
    "steps": None,
    "flops_per_token": 6e6,
}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (3600, "1 h 00 min"),
        (11_220, "3 h 07 min"),
        (2 * 86_400, "2.0 days (48 h)"),
        (100 * 86_400, "100.0 days (2,400 h)"),
        (21 * 365.25 * 86_400, "21 years"),
    ],
)
def test_durations_use_readable_units(seconds, text):
    assert formatting.duration(seconds) == text


def test_memory_parts_add_up_and_empty_parts_are_left_out():
    lines = formatting.pretraining(FACTS)
    assert "8,192 tokens" in lines[1]
    assert "32 rows (1 " in lines[1]
    assert lines[3].split() == ["weights", "3.000", "GB", "75%", "#" * 30]
    assert lines[4].split() == ["activations", "1.000", "GB", "25%", "#" * 10]
    assert lines[5].split()[1:6] == ["4.000", "GB", "of", "72.00", "GB"]
    assert lines[5].endswith(": it fits")
    assert not [line for line in lines if "narrow" in line or "--train." in line.partition("tokens")[0]]
    assert lines[-1].split()[:1] == ["time"]
    assert "--hardware" in lines[-1]


def test_part_of_a_run_comes_with_the_option_for_it():
    speed = {"tokens_per_second": 1e6, "speed_is": "assumed", "mfu_6n_12lct": None, "hours": 2.0}
    more = {"tokens": 8_192_000, "steps": 1000, "tokens_per_parameter": 8.2, "flops": 5e13}
    lines = formatting.pretraining(FACTS | more | speed | {"hours_asked": 0.5, "steps_in_that_time": 250})
    assert lines[-2] == "time            2 h 00 min"
    assert lines[-1] == "in 0.5 h        250 steps, 25.0% of the run: --train.max-steps 250"
