"""Tests that benchmarks/gpu.sh runs on a machine with a GPU. They import only what its header lists."""
