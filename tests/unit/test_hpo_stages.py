"""Stored evaluations are read back as they were, or refused with what is wrong."""

import json

import pytest

from distill.evaluation import StudyEvaluation
from hpo.stages import parse_evaluation
from storage.errors import InputError
from tests.report_document import document


def test_an_evaluation_is_read_back_as_it_was_stored() -> None:
    """Figures that change on their way through the database are nobody's."""
    found = document()["evaluation"]
    evaluation = StudyEvaluation.model_validate(found)
    stored = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    assert stored == found
    assert parse_evaluation("shop", stored) == evaluation
    assert parse_evaluation("shop", None) is None


@pytest.mark.parametrize("damage", [{"retention": None}, {"shots": "ten"}, {"unheard_of": 1}])
def test_an_evaluation_that_does_not_fit_is_refused_with_the_place(damage: dict[str, object]) -> None:
    """A KeyError in the middle of a report says neither what is wrong nor what to do."""
    stored = document()["evaluation"] | damage
    with pytest.raises(InputError, match=f"evaluation of study 'shop' does not fit .*{next(iter(damage))}.* new name"):
        parse_evaluation("shop", stored)
