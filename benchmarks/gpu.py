"""What a GPU gives: every figure beside its peer in the same process, with its share of the device's roofline.

    python benchmarks/gpu.py --pack build/gpu/pack.zip                # anywhere: what a run needs, in one file
    python benchmarks/gpu.py build/gpu/pack.zip --json FILE           # on a machine with a GPU and no database
    python benchmarks/gpu.py build/gpu/pack.zip --device cpu --quick  # a rehearsal, best with a pack of --quick

Figures are written one by one, so that a run that is cut off keeps them. --outputs FILE writes what the device computes
instead, and --compare FILE OTHER compares two of these.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

SUBJECTS = ("encode", "serve", "meta-training", "trial", "distillation")


def main() -> None:
    """Pack, measure, compute outputs, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="?", metavar="PACK", help="a pack")
    parser.add_argument("--pack", type=Path, metavar="FILE", help="write a pack there, and end")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="a rehearsal; with --pack, a tiny encoder")
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS), metavar="SUBJECT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, one by one")
    parser.add_argument("--outputs", type=Path, metavar="FILE", help="write what the device computes there, and end")
    parser.add_argument("--precise", action="store_true", help="with --outputs: in fp32")
    parser.add_argument("--compare", type=Path, nargs=2, metavar="FILE", help="print the errors of the first, and end")
    arguments = parser.parse_args()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # the profiler's own lines
    if arguments.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch first asks for a device
    if arguments.pack:
        from card.pack import write

        print(f"{arguments.pack}: {write(arguments.pack, quick=arguments.quick):,} bytes")
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
    import torch
    from card.pack import read
    from safetensors.torch import save_file

    from studies.model.device import device

    if device().type != arguments.device:
        sys.exit(f"--device {arguments.device}: torch sees no such device here; --device cpu rehearses")
    with tempfile.TemporaryDirectory() as folder:
        problem = read(arguments.file, Path(folder))
        if arguments.outputs:
            from card.outputs import outputs

            save_file(outputs(problem, precise=arguments.precise), arguments.outputs)
            return
        from card import encode, serve, training
        from card.figures import Figures
        from peers.environment import make_importable

        where, quick = torch.device(arguments.device), arguments.quick
        figures = Figures(arguments.json, where)
        if "encode" in arguments.only:
            encode.measure(problem, figures, where, quick=quick)
        if "serve" in arguments.only:
            serve.measure(problem, figures, where, quick=quick)
        if "meta-training" in arguments.only:
            training.meta_training(problem, [] if quick else make_importable(), figures, where, quick=quick)
        if "trial" in arguments.only:
            training.trials(problem, figures, where, quick=quick)
        if "distillation" in arguments.only:
            training.distillation(problem, figures, where)


if __name__ == "__main__":
    main()
