"""The worst finding of each check of an audit."""

from __future__ import annotations

from studies.episodes.audit import Finding

_SEVERITY = ("ok", "note", "leak")


class Findings:
    """Collects findings, which an audit makes for each part.

    Attributes:
        worst: The worst finding of each check, by its name.
    """

    def __init__(self) -> None:
        self.worst: dict[str, Finding] = {}

    def add(self, finding: Finding) -> None:
        """Keep a finding unless its check has a worse one."""
        worst = self.worst.setdefault(finding.check, finding)
        if _SEVERITY.index(finding.status) > _SEVERITY.index(worst.status):
            self.worst[finding.check] = finding
