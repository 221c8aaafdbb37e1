"""What a GPU gives: every figure beside its peer in the same process, with its share of the device's roofline.

    make gpu-pack                                                     # anywhere: what a run needs, in one folder
    make gpu                                                          # on a machine with a GPU and no database
    python benchmarks/gpu.py build/gpu/pack.zip --json FILE           # the figures alone
    python benchmarks/gpu.py build/gpu/pack.zip --device cpu --quick  # a rehearsal, best with a pack of --quick

Figures are written one by one, so that a run that is cut off keeps them; the last subject compares the settings of
`studies.model.device.DeviceSettings` and prints which to ship. --outputs FILE writes what the device computes instead,
and --compare FILE OTHER compares two of these.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

# Carried beside the pack: without a network the others would only be waited for.
PEER = "learn2learn"
SUBJECTS = ("encode", "serve", "meta-training", "trial", "distillation", "settings")


def main() -> None:
    """Pack, measure, compute outputs, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", metavar="PACK", help="a pack")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="write a pack there, and end")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="with --pack: packages that a GPU may lack")
    parser.add_argument("--python", default="3.12", help="of the machine with the GPU, for --packages")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a rehearsal; with --pack, a tiny encoder")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="SUBJECT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, one by one")
    parser.add_argument("--outputs", type=Path, metavar="FILE", help="write what the device computes there, and end")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32", help="of --outputs")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="print the errors of the first, and end")
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own lines
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch first asks for a device
    if arguments.pack:
        from card.pack import write

        print(f"{arguments.pack}: {write(arguments.pack, quick=arguments.quick):,} bytes")
        if arguments.packages:
            from card.packages import carry

            carry(arguments.packages, arguments.python)
    elif arguments.compare:
        compare(*arguments.compare)
    elif arguments.file:
        run(arguments)
    else:
        parser.error("give a pack; --pack FILE writes one")


def compare(ours: Path, reference: Path) -> None:
    """Print each output's error against the reference."""
    from card.outputs import errors
    from safetensors.torch import load_file

    for name, error in errors(load_file(ours), load_file(reference)):
        print(f"{error:.1e}  {name}")


def run(arguments: argparse.Namespace) -> None:
    """Compute outputs or measure, on the device."""
    from studies.model.device import device

    if device().type != arguments.device:
        sys.exit(f"--device {arguments.device}: torch sees no such device here; --device cpu rehearses")
    with tempfile.TemporaryDirectory() as folder:
        if arguments.outputs:
            from card.outputs import outputs
            from safetensors.torch import save_file

            save_file(outputs(arguments.file, Path(folder), arguments.precision), arguments.outputs)
        else:
            measure(arguments, Path(folder))


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    """Measure one subject after the other."""
    import torch
    from card import alternatives, encode, serve, training
    from card.figures import Figures
    from card.pack import read
    from peers.environment import PACKAGES, make_importable

    problem = read(arguments.file, folder)
    where, quick = torch.device(arguments.device), arguments.quick
    figures = Figures(arguments.json, where)
    subjects = {
        "encode": lambda: encode.measure(problem, figures, where, quick=quick),
        "serve": lambda: serve.measure(problem, figures, where, quick=quick),
        "meta-training": lambda: training.meta_training(
            problem, [] if quick else make_importable({PEER: PACKAGES[PEER]}), figures, where, quick=quick
        ),
        "trial": lambda: training.trials(problem, figures, where, quick=quick),
        "distillation": lambda: training.distillation(problem, figures, where),
        "settings": lambda: alternatives.measure(problem, figures, where, folder, quick=quick),
    }
    for subject in arguments.only:
        subjects[subject]()


if __name__ == "__main__":
    main()
