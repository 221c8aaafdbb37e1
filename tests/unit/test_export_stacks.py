"""What serving stacks read of an export gives the student's own vectors, or is refused by the stack's own rules."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import distill.export.checks as export_checks
from distill.export.manifest import read
from distill.export.stacks.tei import broken_rules
from distill.export.stacks.triton import model_name, write_triton
from distill.inference import StudentRecommender
from distill.student import Student
from studies.config.hyperparameters import Hyperparameters
from studies.text_form import join_pair
from studies.training.prepare import prepare
from studies.training.problem import Problem
from tests.served import export_to, untrained
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec
from tests.triton import Server

TEXTS = ["red", "red acme kitchen lamp " * 20, "x, y", "Käse 北京", "blue basket", "a"]
PREFIX = 'x "\n'


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """Thirteen tokens: no multiple of what lengths are padded to."""
    folder = tmp_path_factory.mktemp("study")
    spec = tiny_spec(tiny_encoder(folder / "bert"), teacher={"max_tokens": 13, "prefix": PREFIX})
    return prepare(spec, folder / "cache", data=planted_dataset())


@pytest.fixture(scope="module")
def student(problem: Problem) -> Student:
    """Half as wide as its teacher, so that its vectors go through a projection."""
    return untrained(problem, Hyperparameters(learner="anil", inner_lr=0.05, inner_steps=2), width=16)


@pytest.fixture(scope="module")
def exported(problem: Problem, student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "student"
    return export_to(problem, student, folder, formats=("hf", "onnx", "triton", "pt2"))


def test_the_manifest_and_the_card_say_what_was_opened_and_what_was_not(exported: Path) -> None:
    """Who reads "for Triton" must not believe that a Triton server has opened it."""
    manifest = read(exported)
    assert {name for name, how in manifest.checks.items() if how == "opened"} == {
        "transformers",
        "sentence-transformers",
        "ONNX Runtime",
        "torch.export",
    }
    assert manifest.checks["text-embeddings-inference"] == "not run; by the rules of its sources it fits"
    assert manifest.checks["Triton"].startswith("not run")
    assert manifest.formats["pt2"].cosine is not None
    assert manifest.formats["triton"].cosine is None
    card = (exported / "README.md").read_text()
    assert all(f"- {program}: {how}.\n" in card for program, how in manifest.checks.items())
    StudentRecommender.load(exported)


def test_triton_turns_texts_into_the_students_vectors(student: Student, exported: Path) -> None:
    """A configuration that does not fit its graph, or another cut, prefix or padding, shows only on a server."""
    requests = [[[text] for text in part] for part in (TEXTS[:1], TEXTS[1:4], TEXTS[4:])]
    found = Server(exported / "triton", "tiny").infer(requests)
    assert [len(each["sentence_embedding"]) for each in found] == [1, 3, 2]
    assert all(set(each) == {"sentence_embedding"} for each in found)
    vectors = torch.cat([torch.from_numpy(each["sentence_embedding"]) for each in found])
    torch.testing.assert_close(vectors, export_checks._own_vectors(student, TEXTS), atol=1e-5, rtol=0)


def test_a_student_of_pairs_reads_both_texts_on_triton(student: Student, exported: Path, tmp_path: Path) -> None:
    """Joined to one text, or cut to the first, a pair would have another vector; a text may be without a second one."""
    copied, manifest = shutil.copytree(exported, tmp_path / "copy"), read(exported)
    shutil.rmtree(copied / "triton")
    write_triton(copied, manifest.model_copy(update={"spec": manifest.spec | {"data": {"text_pair": "offer"}}}))
    pairs = [["red acme", "a hall lamp"], ["blue", ""], ["x", "lamp " * 20]]
    (found,) = Server(copied / "triton", "tiny").infer([pairs])
    texts = [join_pair(*pair) if pair[1] else pair[0] for pair in pairs]
    wanted = export_checks._own_vectors(student, texts)
    torch.testing.assert_close(torch.from_numpy(found["sentence_embedding"]), wanted, atol=1e-5, rtol=0)


def test_requests_that_come_together_have_one_shape_and_no_more_tokens_than_the_limit(exported: Path) -> None:
    """Triton's batcher puts only tensors of one shape together; beyond the limit there may be no position."""
    server = Server(exported / "triton", "tiny")
    for texts, length in ((("a", "x"), 8), (("a", TEXTS[1]), 13)):
        requests = [{"TEXT": np.array([[text.encode()]], object)} for text in texts]
        found = server.run("tiny-tokenizer", requests)
        assert {each["input_ids"].shape for each in found} == {(1, length)}
        assert 0 < int(found[0]["attention_mask"].sum()) < length


def test_the_graph_is_on_the_disk_once(exported: Path) -> None:
    """Else a repository doubles the folder."""
    graph = exported / "onnx/model.onnx"
    assert (exported / "triton/tiny-encoder/1/model.onnx").samefile(graph)


@pytest.mark.parametrize(
    ("study", "model"),
    [("my-stores", "my-stores"), ("my shop, 2026", "my_shop_2026"), ("../x", "x"), ("北京", "student")],
)
def test_a_models_name_fits_into_a_url(study: str, model: str) -> None:
    """Triton's paths are /v2/models/NAME/infer, and its folders have the same name."""
    assert model_name(study) == model


def edit(name: str, **changes: Any) -> Callable[[Path], None]:
    """Changes values of a JSON file; None removes one."""

    def damage(folder: Path) -> None:
        said = json.loads((folder / name).read_text()) | changes
        (folder / name).write_text(json.dumps({key: value for key, value in said.items() if value is not None}))

    return damage


def other_module(folder: Path) -> None:
    path = folder / "modules.json"
    path.write_text(path.read_text().replace("models.Dense", "models.Dropout"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edit("config.json", hidden_size=None), r"config.json \(hidden_size"),
        (edit("config.json", activation="mish"), r"config.json \(activation"),
        (
            edit("config.json", n_layers=3),
            r"layer.2.attention.q_lin.weight of shape \(16, 16\), found None",
        ),
        (edit("config.json", architectures=["DistilBertForSequenceClassification"]), "needs id2label"),
        (edit("1_Pooling/config.json", pooling_mode_mean_tokens=False), "TEI pools the first token or the mean"),
        (edit("2_Dense/config.json", out_features=31), r"linear.weight of shape \(31, 16\), found \(32, 16\)"),
        (edit("sentence_bert_config.json", max_seq_length=20_000), "max_seq_length"),
        (edit("config_sentence_transformers.json", prompts={"default": 1}), "prompts.default"),
        (edit("tokenizer.json", model=None), "tokenizer.json"),
        (other_module, "modules.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 20), "header"),
    ],
)
def test_what_tei_would_refuse_or_serve_otherwise_is_named(
    exported: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    """No rule that always holds: each finds the fault that it is for."""
    copied = shutil.copytree(exported, tmp_path / "copy")
    assert broken_rules(copied) == []
    damage(copied)
    assert any(re.search(said, each) for each in broken_rules(copied)), broken_rules(copied)
