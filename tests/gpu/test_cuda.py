"""What a CUDA device computes, against the CPU, on a pack of `benchmarks/gpu.py` and without database and data.

make gpu                                                                   # these tests, then the figures
GPU_PACK=FILE GPU_DEVICE=cpu python -m pytest --noconftest tests/gpu       # a rehearsal
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from card.outputs import beyond
from card.pack import read
from safetensors.torch import load_file

from studies.config.hyperparameters import Hyperparameters
from studies.model.device import device
from studies.training.encoder_setup import trainable_choices
from studies.training.objective import run_trial
from studies.training.problem import Problem
from studies.training.rungs import RungReport

ROOT = Path(__file__).parents[2]
SCRIPT = str(ROOT / "benchmarks" / "gpu.py")
DEVICE = os.environ.get("GPU_DEVICE", "cuda")
PACK = Path(os.environ.get("GPU_PACK", ROOT / "build" / "gpu" / "pack.zip"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(device().type != DEVICE, reason=f"needs a device of type {DEVICE}"),
    pytest.mark.skipif(not PACK.is_file(), reason=f"needs {PACK}: make gpu-pack"),
]
# What is computed at once: on the CPU, for reference; twice in fp32 and once in bf16, three processes on one card.
RUNS = {"cpu": ("cpu", "fp32"), "fp32": (DEVICE, "fp32"), "second": (DEVICE, "fp32"), "bf16": (DEVICE, "bf16")}


@pytest.fixture(scope="module")
def computed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, torch.Tensor]]]:
    """The outputs of each run; a rehearsal makes do with one, since it repeats what is computed, not how well."""
    folder = tmp_path_factory.mktemp("outputs")
    chosen = RUNS if DEVICE == "cuda" else {"cpu": ("cpu", "bf16")}
    started = {}
    for name, (where, precision) in chosen.items():
        command = [SCRIPT, PACK, "--device", where, "--precision", precision, "--outputs", folder / name]
        started[name] = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT)
    try:
        assert {name: process.wait() for name, process in started.items()} == dict.fromkeys(started, 0)
        found = {name: load_file(folder / name) for name in started}
        yield {name: found.get(name, found["cpu"]) for name in RUNS}
    finally:
        for process in started.values():
            process.kill()


@pytest.mark.parametrize(("run", "precision"), [("fp32", "fp32"), ("second", "fp32"), ("bf16", "bf16")])
def test_a_device_computes_what_the_cpu_computes(
    computed: dict[str, dict[str, torch.Tensor]], run: str, precision: str
) -> None:
    """Encoding, losses, gradients, lists, a trial and its resume, a distillation, an export and how it adapts.

    "second" shared the card with the others: memory or streams of another process must not change a result.
    """
    assert beyond(precision, computed[run], computed["cpu"]) == {}


def test_without_a_visible_device_the_cpu_is_used() -> None:
    """A user keeps a study off the card in this way; it must run, not fail at the first tensor."""
    code = "from studies.model.device import device, device_settings, CPU; print(device(), device_settings() is CPU)"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["cpu", "True"]


def held(problem: Problem, values: Hyperparameters, micro_batch_size: int | None) -> int:
    """Return the most bytes that a meta-update and an evaluation hold on the card."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    learner = problem.learner(values, micro_batch_size)
    learner.meta_step(problem.train[: values.meta_batch_size])
    problem.evaluate(learner, problem.validation)
    return torch.cuda.max_memory_reserved()


@pytest.mark.skipif(DEVICE != "cuda", reason="the CPU's allocator is tested in tests/unit")
def test_a_trial_survives_a_card_with_too_little_memory(tmp_path: Path) -> None:
    """A real shortage: the allocator refuses, and the trial goes on with smaller micro-batches."""
    problem = read(PACK, tmp_path / "pack")
    search = problem.spec.search.model_copy(update={"episodes_at_once": 8})
    rungs = problem.spec.pruner.model_copy(update={"rungs": [2]})
    problem.spec = problem.spec.model_copy(update={"search": search, "pruner": rungs})
    layers = max(trainable_choices(problem.spec.search))
    values = Hyperparameters("maml", meta_batch_size=8, trainable_layers=layers, inner_lr=0.05, inner_steps=3)
    few, many = held(problem, values, 1), held(problem, values, None)
    assert many > 1.5 * few, "otherwise smaller micro-batches would not help"
    torch.cuda.empty_cache()
    reports: list[RungReport] = []
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((few + many) / 2 / total)
    try:
        run_trial(problem, values, tmp_path / "trial", reports.append)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert [report.micro_batch_size for report in reports] in ([1], [2], [4])
