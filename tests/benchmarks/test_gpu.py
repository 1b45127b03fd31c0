import json
import os
import subprocess
import sys

import pytest
import torch


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU the script is run in earnest")
def test_the_gpu_script_runs_dry(repository, tmp_path):
    environment = os.environ | {"GPU_SH_DRY": "1", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    script = ["bash", str(repository / "benchmarks" / "gpu.sh"), str(tmp_path)]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kinds = {json.loads(file.read_text())["benchmark"] for file in tmp_path.glob("*.json")}
    assert kinds == {"train-small", "train-medium", "train-xl", "generate", "kernels"}
    assert "all parts came through" in (tmp_path / "log.txt").read_text()
