"""An export is whole, opens everywhere, gives the student's own vectors, and refuses to be tampered with."""

import copy
import json
import resource
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import distill.export.checks as export_checks
import distill.export.fresh_process as fresh_process
import distill.export.writer as exporting
from distill.evaluation import StudyEvaluation
from distill.export.card import model_card
from distill.export.manifest import FORMAT, GRAPHS, EncoderReference, Manifest, Origin
from distill.export.tasks.ranking import RankingExport
from distill.export.writer import export
from distill.hyperparameters import StudentHyperparameters
from distill.inference import StudentRecommender, as_student, load_export
from distill.initialisation import student_config
from distill.objective import Distillation, Student, Teacher, evaluate, load_student
from distill.serving.onnx_tower import through
from distill.student import parameters
from storage.errors import ArtifactsUnavailable, InputError, ScenetuneError
from studies.config.definition import Format, Precision
from studies.config.hyperparameters import Hyperparameters
from studies.config.spec import parse_spec
from studies.model.device import full_precision
from studies.model.encoder import Encoder, tokenize
from studies.training.prepare import prepare
from studies.training.problem import Problem
from tests.report_document import document
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

FORMATS: tuple[Format, ...] = ("hf", "onnx", "onnx-int8")


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    folder = tmp_path_factory.mktemp("study")
    spec = tiny_spec(tiny_encoder(folder / "bert"), distill={"embed_steps": 1, "rank_steps": 1})
    return prepare(spec, folder / "cache", data=planted_dataset())


def distilled(problem: Problem, folder: Path, values: Hyperparameters, width: int = 0) -> Student:
    """A student after a few steps, so that no two parts of it are equal by accident."""
    distillation = Distillation(problem, [Teacher(0, 0.5, problem.learner(values))])
    student = StudentHyperparameters.from_dict({"temperature": 3.0, "width": width})
    distillation.run_trial(student, folder, lambda reached: None)
    return load_student(problem, folder)


@pytest.fixture(scope="module")
def student(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Student:
    values = Hyperparameters(learner="fomaml", inner_lr=0.05, inner_steps=2)
    return distilled(problem, tmp_path_factory.mktemp("trial") / "t", values)


@pytest.fixture(scope="module")
def narrow(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> Student:
    """Half as wide as its teacher, so that its vectors go through a projection."""
    values = Hyperparameters(learner="anil", inner_lr=0.05, inner_steps=2)
    return distilled(problem, tmp_path_factory.mktemp("trial") / "n", values, width=16)


def origin(problem: Problem) -> Origin:
    return Origin(
        study="tiny",
        study_id="0" * 32,
        spec=problem.spec.model_dump(mode="json"),
        data_fingerprint=problem.data.fingerprint,
        encoder=EncoderReference(name="a tiny BERT", sha256=problem.encoder.identity, vocabulary=89),
        metrics=StudyEvaluation.model_validate(document()["evaluation"]),
    )


@pytest.fixture(scope="module")
def exported(problem: Problem, student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "student"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown with every format
        return export(student, RankingExport.of(problem), folder, origin(problem))


@pytest.fixture(scope="module")
def with_graphs(problem: Problem, narrow: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The narrow student in every format, with everything measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_checks, "MAX_LOSS", 1.0)  # a handful of queries are no measure of recall
        folder = tmp_path_factory.mktemp("exports") / "graphs"
        return export(narrow, RankingExport.of(problem), folder, origin(problem), formats=FORMATS, problem=problem)


def vectors(problem: Problem, student: Student, count: int) -> torch.Tensor:
    with full_precision(), torch.no_grad():
        return student.tower(torch.arange(count)).cpu()


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_transformers_opens_the_export(problem: Problem, student: Student, exported: Path) -> None:
    """Token types that DistilBERT does not take, or another cut, show only outside our own code."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(exported), AutoModel.from_pretrained(exported)
    assert type(model).__name__ == "DistilBertModel"
    assert model.dtype == torch.float32
    inputs = tokenizer(list(problem.data.texts[:20]), padding=True, truncation=True, return_tensors="pt")
    assert set(inputs) == {"input_ids", "attention_mask"}
    with torch.no_grad():
        hidden, mask = model(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
    pooled = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    torch.testing.assert_close(pooled, vectors(problem, student, 20), atol=1e-5, rtol=0)
    long = tokenizer("red " * 400, truncation=True)["input_ids"]
    assert len(long) == problem.spec.teacher.max_tokens


def test_sentence_transformers_opens_the_export(problem: Problem, student: Student, exported: Path) -> None:
    """Without its pooling file the same weights silently pool by CLS."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(exported), device="cpu")
    assert model.max_seq_length == problem.spec.teacher.max_tokens
    theirs = torch.from_numpy(model.encode(list(problem.data.texts[:20])))
    cosine = (theirs * vectors(problem, student, 20)).sum(1)
    assert float(cosine.min()) >= 0.9999


def test_sentence_transformers_projects_a_narrow_student(problem: Problem, narrow: Student, with_graphs: Path) -> None:
    """Without its Dense module it would give vectors of another size, or of none that the head can read."""
    from sentence_transformers import SentenceTransformer

    theirs = torch.from_numpy(SentenceTransformer(str(with_graphs), device="cpu").encode(problem.data.texts[:20]))
    assert theirs.shape == (20, 32)
    cosine = (theirs * vectors(problem, narrow, 20)).sum(1)
    assert float(cosine.min()) >= 0.9999


def test_onnx_runtime_takes_any_batch_and_length(problem: Problem, narrow: Student, with_graphs: Path) -> None:
    """A size that was a constant of the exporter's example would fail, or cut texts, only at the user's."""
    import onnxruntime
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(with_graphs)
    session = onnxruntime.InferenceSession(with_graphs / "onnx/model.onnx", providers=["CPUExecutionProvider"])
    assert {each.name: each.type for each in session.get_inputs()} == {
        "input_ids": "tensor(int64)",
        "attention_mask": "tensor(int64)",
    }
    for texts in (["red"], ["red lamp", "x, y"], list(problem.data.texts[:7]), ["blue basket " * 30, "a"]):
        inputs = dict(tokenizer(texts, padding=True, truncation=True, return_tensors="np"))
        hidden, embedded = session.run(["last_hidden_state", "sentence_embedding"], inputs)
        assert hidden.shape == (*inputs["input_ids"].shape, 16)
        wanted = export_checks._own_vectors(narrow, texts)
        torch.testing.assert_close(torch.from_numpy(embedded), wanted, atol=1e-5, rtol=0)


def test_every_format_scores_as_the_student(problem: Problem, narrow: Student, with_graphs: Path) -> None:
    """`hpo evaluate --format` must measure the graph, with the same head and protocol."""
    wanted = evaluate(narrow, problem, problem.validation)
    again = evaluate(through(with_graphs / GRAPHS["onnx"], narrow), problem, problem.validation)
    assert again.mean() == pytest.approx(wanted.mean(), abs=1e-6)
    recorded = json.loads((with_graphs / "manifest.json").read_text())["formats"]["onnx-int8"]
    small = evaluate(through(with_graphs / GRAPHS["onnx-int8"], narrow), problem, problem.validation)
    assert recorded["recall"] == pytest.approx(small.mean(), abs=1e-6)
    assert recorded["recall_fp32"] == pytest.approx(wanted.mean(), abs=1e-6)


def test_what_was_measured_of_each_format_is_written_down(with_graphs: Path) -> None:
    """Nobody believes "int8 costs nothing" without the figures."""
    manifest = json.loads((with_graphs / "manifest.json").read_text())
    formats, card = manifest["formats"], (with_graphs / "README.md").read_text()
    assert tuple(formats) == FORMATS
    for name in ("hf", "onnx"):
        assert formats[name]["cosine"] >= 0.9999
        assert formats[name]["agreement"] == 1
    assert formats["hf"]["served_agreement"] == 1
    assert formats["hf"]["sentence_transformers_cosine"] >= 0.9999
    assert 0 < formats["onnx-int8"]["agreement"] <= 1
    assert set(formats["onnx-int8"]["texts_per_second"]) == {"onnx", "onnx-int8", "torch"}
    assert {"onnx", "onnxruntime"} <= set(manifest["versions"])
    assert "`onnx/model_int8.onnx`" in card
    assert "onnxruntime.InferenceSession" in card
    assert "2_Dense/model.safetensors" in card
    assert set(manifest["files"]) == set(contents(with_graphs)) - {"manifest.json"}


def test_the_cards_examples_run(with_graphs: Path, problem: Problem, narrow: Student) -> None:
    """A card whose code fails is the first thing that a user meets."""
    card = (with_graphs / "README.md").read_text()
    wanted = export_checks._own_vectors(narrow, ["whole milk", "oat drink"])
    found = []
    for block in card.split("```python\n")[1:]:
        names: dict[str, Any] = {}
        exec(block.split("```")[0].replace("path/to/this/folder", str(with_graphs)), names)
        if "vectors" in names:
            found.append(torch.as_tensor(names["vectors"]))
    assert len(found) == 3
    for each in found:
        torch.testing.assert_close(each, wanted, atol=1e-5, rtol=0)


def test_8_bit_weights_that_cost_recall_are_refused(
    problem: Problem, narrow: Student, with_graphs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A faster student that recommends worse must be somebody's decision."""
    monkeypatch.setattr(export_checks, "MAX_LOSS", -1.0)
    with pytest.raises(ScenetuneError, match=r"falls from 0\.\d+ to 0\.\d+.*--format hf,onnx"):
        export_checks.measure_int8(narrow, with_graphs, problem)


def test_a_format_brings_along_what_it_is_made_from(problem: Problem) -> None:
    """8-bit weights and Triton's repository are made from the fp32 graph, and nothing opens without the plain files."""
    raw = problem.spec.model_dump(mode="json")
    for given, wanted in (
        (["onnx-int8"], FORMATS),
        (["onnx", "hf"], FORMATS[:2]),
        (["triton"], ("hf", "onnx", "triton")),
        (["pt2"], ("hf", "pt2")),
        ([], FORMATS[:1]),
    ):
        assert tuple(parse_spec(raw | {"export": {"formats": given}}).export.formats) == wanted
    assert (
        parse_spec(raw | {"export": {"formats": ["onnx"], "precision": "bf16"}}).identity() == problem.spec.identity()
    )


def test_a_missing_package_is_named_before_anything_is_written(
    problem: Problem, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The extra is optional: who lacks it must learn its name, not an ImportError."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"need onnxscript, .* pip install 'scenetune\[export\]'"):
        export(student, RankingExport.of(problem), tmp_path / "out", origin(problem), formats=("hf", "onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_reduced_precision_is_that_of_the_encoder_alone(
    problem: Problem,
    narrow: Student,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    precision: Precision,
    dtype: torch.dtype,
) -> None:
    """A head in bf16 would rank by other scores; a configuration that still says fp32 would double the memory."""
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    folder = export(narrow, RankingExport.of(problem), tmp_path / "out", origin(problem), precision=precision)
    assert {each.dtype for each in load_file(folder / "model.safetensors").values()} == {dtype}
    assert load_file(folder / "2_Dense/model.safetensors")["linear.weight"].dtype == dtype
    assert {each.dtype for each in load_file(folder / "head.safetensors").values()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert next(narrow.tower.model.parameters()).dtype == torch.float32


def test_the_manifest_says_what_it_is(problem: Problem, student: Student, exported: Path) -> None:
    """An export whose origin is lost cannot be trusted or made again."""
    manifest = json.loads((exported / "manifest.json").read_text())
    said = origin(problem).to_json()
    assert {name: manifest[name] for name in said} == said
    assert Manifest.model_validate(manifest).to_json() == manifest
    assert manifest["learner"] == student.learner.hyperparameters.to_dict()
    assert manifest["learner"]["inner_steps"] == 2
    assert manifest["distillation"]["temperature"] == 3
    assert manifest["parameters"]["encoder"] == sum(p.numel() for p in student.tower.parameters())
    assert set(manifest["files"]) == set(contents(exported)) - {"manifest.json"}
    assert manifest["bytes"] == sum(len(data) for name, data in contents(exported).items() if name != "manifest.json")
    assert set(manifest["versions"]) == {"scenetune", "torch", "transformers"}
    assert manifest["vocabulary"] == {"kept": student.tower.model.config.vocab_size, "of": 89}
    assert manifest["precision"] == "fp32"


def test_nothing_of_the_machine_is_exported(exported: Path, with_graphs: Path, problem: Problem) -> None:
    """Tokenizers remember the folder that they were loaded from, graphs the source of every node; there is no code."""
    here = [problem.spec.teacher.encoder.encode(), str(Path(exporting.__file__).parent).encode(), b"site-packages"]
    for folder in (exported, with_graphs):
        for name, data in contents(folder).items():
            assert not any(path in data for path in here) or name == "manifest.json"
            assert Path(name).suffix in {".json", ".safetensors", ".md", ".txt", ".onnx"}


def test_the_card_tells_figures_and_intervals(exported: Path) -> None:
    """A model card without an interval sells noise."""
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    student = document()["evaluation"]["systems"]["student"]
    recall, ndcg, hits = student["recall"], student["metrics"]["ndcg"], student["metrics"]["hit_rate"]
    figures = [f"{recall['mean']:.3f}", f"{recall['low']:.3f} – {recall['high']:.3f}"]
    assert f"| student | {' | '.join(figures)} | {ndcg['mean']:.3f} | {hits['mean']:.3f} |" in card
    assert "keeps 95.7% of the best teacher's recall and 85.7% of its lift" in card


def test_the_card_shows_names_as_text_and_no_path_of_this_machine(exported: Path) -> None:
    """It is published, and drawn by whoever hosts models."""
    manifest = load_export(exported).manifest
    encoder = EncoderReference(name="/srv/me/se`cret/my`bert", sha256="0", vocabulary=89)
    card = model_card(manifest.model_copy(update={"study": "a`<img>\x1b[2J", "encoder": encoder}))
    assert "\n# a\\`\\<img\\>\\\\u001b[2J\n" in card
    assert "built on ``my`bert``" in card
    assert "/srv" not in card


def test_the_export_scores_what_the_student_scored(problem: Problem, student: Student, exported: Path) -> None:
    """`hpo evaluate` on the folder must repeat the manifest's figures."""
    opened = load_export(exported)
    tokens = tokenize(opened.tokenizer, problem.data.texts, opened.max_tokens)
    again = evaluate(as_student(opened, tokens), problem, problem.validation)
    assert again == evaluate(student, problem, problem.validation)


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "1_Pooling/config.json"])
@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_export_is_refused(exported: Path, tmp_path: Path, name: str, damage: str) -> None:
    """Half a download must not serve recommendations."""
    copied = shutil.copytree(exported, tmp_path / "copy")
    if damage == "missing":
        (copied / name).unlink()
    else:
        data = bytearray((copied / name).read_bytes())
        data[-1] ^= 1
        (copied / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        StudentRecommender.load(copied)


def test_an_export_of_another_format_or_none_is_refused(exported: Path, tmp_path: Path) -> None:
    """Guessing at an unknown format gives wrong numbers instead of an error."""
    copied = shutil.copytree(exported, tmp_path / "copy")
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="format 99"):
        load_export(copied)
    (copied / "manifest.json").write_text(json.dumps(manifest | {"max_tokens": "many"}))
    with pytest.raises(InputError, match=r"not a manifest.*max_tokens"):
        load_export(copied)
    del manifest["files"]["model.safetensors"]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        load_export(copied)
    with pytest.raises(InputError, match="not an export"):
        load_export(tmp_path)


def test_an_existing_folder_is_refused_or_replaced(
    problem: Problem, student: Student, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that is in service must not change under a reader, nor a home folder vanish."""
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)  # slow, and shown elsewhere
    before = contents(exported)
    with pytest.raises(InputError, match="exists already"):
        export(student, RankingExport.of(problem), exported, origin(problem))
    assert contents(exported) == before
    copied = shutil.copytree(exported, exported.parent / "copy")
    task, renamed = RankingExport.of(problem), origin(problem).model_copy(update={"study": "renamed"})
    export(student, task, copied, renamed, replace=True)
    assert load_export(copied).manifest.study == "renamed"
    (copied / "manifest.json").write_text(json.dumps(load_export(copied).manifest.to_json() | {"format": FORMAT - 1}))
    export(student, task, copied, origin(problem), replace=True)  # an older version's export is one too
    assert load_export(copied).manifest.format == FORMAT
    precious = exported.parent / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not an export"):
        export(student, RankingExport.of(problem), precious, origin(problem), replace=True)
    assert contents(precious) == {"thesis.txt": b"years of work"}


def test_failed_parity_leaves_nothing(
    problem: Problem, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that gives strangers other vectors must never be seen, not even as a draft."""
    write = exporting.write_encoder

    def wrong(student: Student, *rest: Any) -> None:
        other = copy.deepcopy(student.tower)
        with torch.no_grad():
            other.model.embeddings.word_embeddings.weight.mul_(1.1)
        write(replace(student, tower=other), *rest)

    monkeypatch.setattr(exporting, "write_encoder", wrong)
    with pytest.raises(ScenetuneError, match="differs"):
        export(student, RankingExport.of(problem), tmp_path / "out", origin(problem))
    assert list(tmp_path.iterdir()) == []


def test_lists_of_another_head_leave_nothing(
    problem: Problem, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vectors may agree and the lists not: what is served hangs on the head as well."""
    write = exporting.write_head

    def wrong(head: torch.nn.Module, *rest: Any) -> None:
        other = copy.deepcopy(head)
        with torch.no_grad():
            other.feature_weights.neg_()
        write(other, *rest)

    monkeypatch.setattr(exporting, "write_head", wrong)
    with pytest.raises(ScenetuneError, match="ranks otherwise"):
        export(student, RankingExport.of(problem), tmp_path / "out", origin(problem), problem=problem)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors"])
def test_a_full_disk_names_the_export_and_leaves_nothing(
    problem: Problem, narrow: Student, with_graphs: Path, tmp_path: Path, name: str
) -> None:
    """Each file of an export is written by another library, and each of them says it in its own way."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Beyond the limit a write fails as on a full disk: Python ignores the signal.
    resource.setrlimit(resource.RLIMIT_FSIZE, ((with_graphs / name).stat().st_size - 1, hard))
    try:
        with pytest.raises(ArtifactsUnavailable, match=f"cannot write {tmp_path / 'exports' / 'out'} "):
            export(narrow, RankingExport.of(problem), tmp_path / "exports" / "out", origin(problem))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_does_not_open_leaves_nothing(
    problem: Problem, student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fresh process's own error must reach the user."""
    monkeypatch.setattr(exporting, "write_encoder", lambda *_: None)
    with pytest.raises(ScenetuneError, match="could not open"):
        export(student, RankingExport.of(problem), tmp_path / "out", origin(problem))
    assert list(tmp_path.iterdir()) == []


def test_the_seeds_shape_is_kept() -> None:
    """Half the layers of a bert-base are at most 0.61 of its parameters, as DistilBERT's are."""
    from transformers import BertConfig, BertModel, DistilBertModel

    with torch.device("meta"):
        bert = BertModel(BertConfig(), add_pooling_layer=False)
        encoder = Encoder(None, bert.config, "", "bert-base", lambda: bert)  # type: ignore[arg-type]
        config = student_config(encoder, StudentHyperparameters(layers=6, vocabulary="full"))
        student = DistilBertModel(config)
    assert (config.dim, config.n_layers, config.n_heads, config.hidden_dim) == (768, 6, 12, 3072)
    assert parameters(student) / parameters(bert) <= 0.61


def test_an_origin_that_lacks_something_is_a_mistake(problem: Problem) -> None:
    """Found before anything is written."""
    said = origin(problem).to_json()
    for name in ("study", "spec", "data_fingerprint", "encoder"):
        with pytest.raises(ValueError, match=name):
            Origin.model_validate({key: value for key, value in said.items() if key != name})


def test_parity_is_checked_without_a_network(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that needs a download opens here and fails at the user's."""
    seen: dict[str, Any] = {}

    def run(command: list[str], **options: Any) -> Any:
        seen.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(fresh_process.subprocess, "run", run)
    with pytest.raises(KeyboardInterrupt):
        export_checks.fresh_process(exported, ["milk"], ["hf"])
    assert seen["env"]["HF_HUB_OFFLINE"] == "1"
