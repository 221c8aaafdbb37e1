"""Towers: what `teacher.attention` and `teacher.compile` change, which is the speed alone."""

from functools import partial

import pytest
import torch
from torch import Tensor

from studies.config.definition import TeacherSection
from studies.model.activation_cache import ActivationCache
from studies.model.device import full_precision
from studies.model.encoder import Encoder, load, tokenize
from studies.model.towers import TopLayersTower, attention_for, build_tower
from tests.synthetic import BRANDS, COLOURS, SCENES, tiny_encoder

TEXTS = [f"{COLOURS[i % 6]} {BRANDS[i % 5]}{' small' * (i % 4)} {SCENES[i % 7]}" for i in range(24)]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return load(TeacherSection(encoder=str(tiny_encoder(tmp_path_factory.mktemp("towers") / "tiny"))))


@pytest.fixture(scope="module")
def cache(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> ActivationCache:
    made = ActivationCache(tmp_path_factory.mktemp("cache"), encoder, tokenize(encoder.tokenizer, TEXTS, 16))
    made.build({0, 2})
    return made


def vectors_and_gradients(tower: TopLayersTower) -> tuple[Tensor, dict[str, Tensor]]:
    with full_precision():
        vectors = tower(torch.arange(len(TEXTS)))
        (vectors * torch.linspace(0, 1, vectors.numel()).view_as(vectors)).sum().backward()
    return vectors.detach(), {name: p.grad for name, p in tower.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"attention": "sdpa"}, {"attention": "eager", "compiled": True}], ids=str)
def test_another_kernel_or_a_compiled_tower_gives_the_same_vectors_and_gradients(
    encoder: Encoder, cache: ActivationCache, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask that a kernel reads in another way, or weights that a compiled copy keeps, would train something else."""
    # Traced for real; that the generated code computes what was traced is PyTorch's to test, and needs a C++ compiler.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    plain, other = build_tower(encoder, cache, 2, "eager"), build_tower(encoder, cache, 2, **changes)  # type: ignore[arg-type]
    assert isinstance(plain, TopLayersTower)
    assert isinstance(other, TopLayersTower)
    wanted, found = vectors_and_gradients(plain), vectors_and_gradients(other)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-4, atol=1e-5)
    assert found[1].keys() == wanted[1].keys()
    for name, gradient in wanted[1].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-3, atol=1e-4, msg=name)
    with torch.no_grad():
        for tower in (plain, other):
            next(tower.parameters()).mul_(1.5)
    with full_precision():
        again = [tower(torch.arange(4)).detach() for tower in (plain, other)]
    torch.testing.assert_close(again[1], again[0], rtol=1e-4, atol=1e-5)


def test_second_order_takes_the_kernel_that_has_a_second_derivative() -> None:
    """SDPA would fail at the first update of a trial, after all else was prepared."""
    assert attention_for("auto", "maml") == "eager"
    assert attention_for("sdpa", "protonet") == "sdpa"
    assert attention_for("eager", "fomaml") == "eager"
