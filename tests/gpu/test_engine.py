import pytest

from gptworks.generation.engine import GenerateSettings, generate
from gptworks.model import checkpoint


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_qwen3"])
def test_on_a_gpu_samples_are_those_of_the_cpu(name: str, byte_tokenizer, request, tmp_path):
    request.getfixturevalue(name).save_pretrained(tmp_path)
    model = checkpoint.load(tmp_path)
    settings = GenerateSettings(max_tokens=30, samples=3, temperature=1.2)
    on_cpu = generate(model, byte_tokenizer, "Hello", settings)
    assert generate(model.cuda(), byte_tokenizer, "Hello", settings) == on_cpu
