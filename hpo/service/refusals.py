"""Why a request is not served; `hpo/service/front/answers.py` says it to the client."""

from __future__ import annotations


class Refusal(Exception):
    """A request that is not served.

    Args:
        status: Of the answer.
        code: Of the problem.
        error: Of the problem.
        headers: Further ones of the answer.
    """

    def __init__(self, status: int, code: str, error: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.code, self.headers = status, code, headers
