import pytest

from gptworks.plan import words

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
    "memory": {"weights": 3_000_000_000, "weights in the narrow type": 0, "activations": 1_000_000_000},
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
def test_times_are_said_as_people_say_them(seconds, text):
    assert words.duration(seconds) == text


def test_memory_is_stacked_in_parts_that_add_up_and_nothing_is_said_of_what_is_not_there():
    said = words.pretraining(FACTS)
    assert said[1].endswith("8,192 tokens a step, 32 rows at once (once a step)")
    assert said[3].split() == ["weights", "3.000", "GB", "75%", "#" * 30]
    assert said[4].split() == ["activations", "1.000", "GB", "25%", "#" * 10]
    assert said[5].endswith("4.000 GB, of 72.00 GB that may be filled: it fits")
    assert not [line for line in said if "narrow" in line or "way out" in line]
    assert said[-1].startswith("time            not known")


def test_a_part_of_a_run_is_told_with_the_option_that_asks_for_it():
    speed = {"tokens_per_second": 1e6, "speed_is": "assumed", "mfu_6n_12lct": None, "hours": 2.0}
    more = {"tokens": 8_192_000, "steps": 1000, "tokens_per_parameter": 8.2, "flops": 5e13}
    said = words.pretraining(FACTS | more | speed | {"hours_asked": 0.5, "steps_in_that_time": 250})
    assert said[-2] == "time            2 h 00 min"
    assert said[-1] == "in 0.5 h        250 steps, 25.0% of the run: --train.max-steps 250"
