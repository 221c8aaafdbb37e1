"""A run that saves a checkpoint after the other until it is killed; a module of its own, so that it starts quickly."""

from multiprocessing.connection import Connection
from pathlib import Path

import torch

from storage.files import checkpoints


def write_on(folder: Path, heard: Connection) -> None:
    """Goes on from where the last writer was killed, and tells each step once it is saved."""
    found = checkpoints.newest_valid(folder)
    step = found[1]["step"] if found else 0
    while True:
        step += 1
        checkpoints.save(folder, step, {"w": torch.full((100_000,), float(step))}, {"step": step})
        heard.send(step)
