"""What `benchmarks/gpu.py` measures and checks on a CUDA device, or rehearses on a CPU."""
