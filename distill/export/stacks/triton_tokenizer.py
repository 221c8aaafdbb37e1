"""The first step of an export's Triton repository: texts to tokens. Triton's Python backend runs this file.

It is copied into the repository as `model.py`, beside the tokenizer, and needs the package tokenizers alone. The server
provides the module `triton_python_backend_utils`.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from tokenizers import Tokenizer

# Lengths are padded to multiples of it: Triton's batcher puts only requests of one shape together.
STEP = 8


class TritonPythonModel:
    """Turns the texts of requests into token ids and their mask, all of one length.

    A row of TEXT is one text, or, of students that read pairs, a text and its second one, "" where there is none.
    """

    def initialize(self, args: dict[str, str]) -> None:
        """Read tokenizer.json, and what `config.pbtxt` says of the texts."""
        said = json.loads(args["model_config"])["parameters"]
        # Protobuf may leave out an empty string.
        self.prefix: str = said["prefix"].get("string_value", "")
        self.max_tokens = int(said["max_tokens"]["string_value"])
        folder = Path(args["model_repository"], args["model_version"])
        self.tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(self.max_tokens)
        self.tokenizer.enable_padding(pad_to_multiple_of=STEP)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Return the tokens of each request's texts."""
        rows = [triton.get_input_tensor_by_name(request, "TEXT").as_numpy() for request in requests]
        found = self.tokenizer.encode_batch([self.text(row) for each in rows for row in each])
        ends = np.cumsum([len(each) for each in rows])[:-1]
        # What the last step adds beyond the limit is padding, for which there may be no position.
        ids, mask = (
            np.split(np.array(values, np.int64)[:, : self.max_tokens], ends)
            for values in ([each.ids for each in found], [each.attention_mask for each in found])
        )
        return [
            triton.InferenceResponse([triton.Tensor("input_ids", one), triton.Tensor("attention_mask", other)])
            for one, other in zip(ids, mask, strict=True)
        ]

    def text(self, row: Any) -> str | tuple[str, str]:
        """Return a row's text behind the prefix, or its two texts."""
        first, *second = (each.decode(errors="replace") for each in row)
        return (self.prefix + first, second[0]) if second and second[0] else self.prefix + first
