"""The shop's own training of the encoder: each objective, what it may read, and that it is done once."""

import math
import multiprocessing
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from storage.errors import InputError
from storage.home import home
from studies.adaptation import stage
from studies.adaptation.corpus import Corpus, Log, log_corpus
from studies.adaptation.encoding import AdaptingEncoder
from studies.adaptation.objectives.base import Training
from studies.adaptation.objectives.cooccurrence import Pairs
from studies.adaptation.objectives.in_batch import in_batch_loss
from studies.adaptation.objectives.labels import same_class_loss
from studies.adaptation.objectives.mlm import IGNORED, MaskedWords
from studies.adaptation.section import RankingAdapt
from studies.classification.build import labelled_corpus
from studies.classification.plan import plan
from studies.classification.protocol import ClassificationProtocol
from studies.config.definition import TeacherSection
from studies.data.dataset import Dataset
from studies.episodes.split import split_scenes
from studies.model import encoder as encoders
from studies.model.device import full_precision
from studies.model.encoder import Encoder, tokenize
from tests.adapting import SECTION, Reporter, adapted, die_in_process, study
from tests.damages import DAMAGES
from tests.labelled import planted_texts
from tests.labelled_study import tiny_labelled_spec
from tests.synthetic import planted_dataset, tiny_encoder, tiny_spec

RNG = np.random.default_rng(0)
# "gold" and "gala" are no words of the tiny vocabulary: each becomes several tokens.
TEXTS = ("gold kettle", "red gala lamp, small", "acme", "blue kitchen mirror gold gala")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("encoder"))


def masked(model: Path, **settings: Any) -> tuple[MaskedWords, Encoder]:
    teacher, section = TeacherSection(encoder=str(model)), RankingAdapt(objectives=["mlm"], dropout=0.0, **settings)
    encoder = encoders.load(teacher)
    adapting = AdaptingEncoder(encoder, tokenize(encoder.tokenizer, TEXTS, 32), section.dropout)
    corpus = Corpus(TEXTS, np.arange(len(TEXTS)))
    return MaskedWords(Training(encoder, adapting, corpus, section, teacher)), encoder


def test_whole_words_are_hidden_and_at_least_one_of_each_text(model: Path) -> None:
    """A half of a word gives the other away: nothing would have to be learned from the rest of the text."""
    objective, encoder = masked(model, mask=0.3)
    ids, mask = objective.training.adapting.tokens.padded(torch.arange(len(TEXTS)), torch.device("cpu"))
    words = encoder.tokenizer(list(TEXTS))
    hidden = kept = random = 0
    for _ in range(200):
        shown, wanted = objective.hide(ids, mask, RNG)
        for row in range(len(TEXTS)):
            of_word: dict[int, set[bool]] = {}
            for place, word in enumerate(words.word_ids(row)):
                taken = bool(wanted[row, place] != IGNORED)
                assert not (taken and word is None), "a special token"
                if word is not None:
                    of_word.setdefault(word, set()).add(taken)
            assert all(len(taken) == 1 for taken in of_word.values())
            assert sum(taken == {True} for taken in of_word.values()) == max(1, round(0.3 * len(of_word)))
        chosen = wanted != IGNORED
        assert (wanted[chosen] == ids[chosen]).all()
        assert (shown[~chosen] == ids[~chosen]).all()
        hidden += int((shown[chosen] == encoder.tokenizer.mask_token_id).sum())
        kept += int((shown[chosen] == ids[chosen]).sum())
        random += int(chosen.sum())
    assert hidden / random == pytest.approx(0.8, abs=0.05)
    assert kept / random == pytest.approx(0.1, abs=0.04)


def test_the_loss_of_hidden_words_is_that_of_transformers(model: Path) -> None:
    """The head runs on hidden tokens alone, over states that were computed before: as the whole model would."""
    from transformers import AutoModelForMaskedLM

    objective, _ = masked(model)
    whole = AutoModelForMaskedLM.from_pretrained(model)
    own = {name: tensor for name, tensor in objective.head.state_dict().items() if name.startswith("cls.")}
    whole.load_state_dict(own, strict=False)
    whole.train(False)
    rows = objective.training.adapting.tokens
    # One length, and so one group: the objective draws its words group by group.
    objective._tokens = rows.rows(torch.tensor([0]))
    objective.training.section.__dict__["batch_size"] = 1
    with full_precision():
        loss = objective.loss(np.random.default_rng(5))
    again = np.random.default_rng(5)
    again.choice(1, 1, replace=False)
    shown, wanted = objective.hide(*objective._tokens.padded(torch.tensor([0]), torch.device("cpu")), again)
    expected = whole(input_ids=shown, labels=wanted).loss
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    trained = {name for name, p in objective.training.adapting.model.named_parameters() if p.grad is not None}
    assert "encoder.layer.0.output.dense.weight" in trained
    assert not any("word_embeddings" in name for name in trained)


def test_the_loss_within_a_batch_is_the_cross_entropy_of_the_partner() -> None:
    """Term by term, as Henderson et al. (2017) write it; what may be a partner too is in no sum."""
    anchors, others = (torch.nn.functional.normalize(torch.randn(5, 8), dim=1) for _ in range(2))
    ignored = torch.zeros(5, 5, dtype=torch.bool)
    ignored[0, 3] = ignored[4, 1] = True
    terms = []
    for i in range(5):
        powers = {j: math.exp(float(anchors[i] @ others[j]) / 0.2) for j in range(5) if not ignored[i, j]}
        terms.append(-math.log(powers[i] / sum(powers.values())))
    assert float(in_batch_loss(anchors, others, 0.2, ignored)) == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_the_loss_of_labels_is_that_of_the_paper() -> None:
    """Khosla et al. (2020), eq. 2, term by term: texts of one group, and texts without a partner, are in no sum."""
    vectors = torch.nn.functional.normalize(torch.randn(7, 8), dim=1)
    label, group = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([0, 0, 1, -1, -1, 3, 3])
    terms = []
    for i in range(7):
        others = [j for j in range(7) if j != i and not (label[i] == label[j] and group[i] == group[j] >= 0)]
        partners = [j for j in others if label[j] == label[i]]
        total = sum(math.exp(float(vectors[i] @ vectors[j]) / 0.1) for j in others)
        own = [-math.log(math.exp(float(vectors[i] @ vectors[j]) / 0.1) / total) for j in partners]
        terms += [sum(own) / len(own)] if own else []
    assert len(terms) == 5
    assert float(same_class_loss(vectors, label, group, 0.1)) == pytest.approx(sum(terms) / 5, rel=1e-5)


def test_pairs_are_of_one_user_and_near_each_other() -> None:
    """Every partner is one that the definition names, and every one that it names is drawn."""
    user, time, item = np.sort(RNG.integers(0, 6, 80)), RNG.integers(0, 40, 80), RNG.integers(0, 5, 80)
    order = np.lexsort((time, user))
    log = Log(user[order], time[order], item[order], np.zeros(80, dtype=np.int64))
    pairs = Pairs(log, within=3)
    near = (log.user[:, None] == log.user) & (np.abs(log.time[:, None] - log.time) <= 3)
    partners = near & (log.item[:, None] != log.item)
    assert pairs.paired.tolist() == np.flatnonzero(partners.any(1)).tolist()
    drawn = np.zeros_like(partners)
    for _ in range(300):
        drawn[pairs.paired, pairs.partners(pairs.paired, RNG)] = True
    assert (drawn == partners).all()
    assert pairs.together(7, np.arange(5)).tolist() == np.isin(np.arange(5), log.item[near[7]]).tolist()
    assert not len(Pairs(Log(*(np.empty(0, dtype=np.int64),) * 4), within=3).paired)


def corpus_of(data: Dataset) -> Corpus:
    spec = tiny_spec(Path("none"))
    return log_corpus(data, split_scenes(data, spec.protocol), spec.protocol)


def test_nothing_is_read_of_held_out_scenes_or_from_after_training() -> None:
    """A new scene stays new: what is planted there, or later, changes nothing of what an encoder learns."""
    data = planted_dataset()
    split = split_scenes(data, tiny_spec(Path("none")).protocol)
    corpus, until = corpus_of(data), split.period["train"][1]
    assert corpus.log is not None
    assert set(corpus.log.scene.tolist()) <= set(split.scenes["train"].tolist())
    assert corpus.log.time.max() < until
    assert set(corpus.texts) == {data.texts[item] for item in data.items_in(split.scenes["train"])}
    outside = np.isin(data.scene, split.held_out) | (data.time >= until)
    held_out = np.setdiff1d(np.arange(len(data.texts)), corpus.items)
    texts = tuple(f"{text} leaked" if code in held_out else text for code, text in enumerate(data.texts))
    user = np.where(outside, RNG.permutation(data.user), data.user)
    item = data.item.copy()
    item[outside] = RNG.permutation(item[outside])
    planted = corpus_of(replace(data, texts=texts, user=user, item=item))
    assert planted.digest({"texts", "log"}) == corpus.digest({"texts", "log"})
    shown = corpus_of(replace(data, user=np.where(outside, data.user, np.roll(data.user, 1))))
    assert shown.digest({"texts", "log"}) != corpus.digest({"texts", "log"}), "what is in training does change it"
    with pytest.raises(AssertionError, match="training may not read"):
        Corpus(corpus.texts[:-1], corpus.items[:-1], log=corpus.log)


@pytest.mark.parametrize("classes", ["new", "known"])
def test_labels_of_held_out_classes_and_rows_are_not_read(classes: str) -> None:
    """Their texts may be, as by students, but not of known classes, where they are the test."""
    data = planted_texts()
    kept = {"classes": "known", "split_by": "hash"} if classes == "known" else {"ways": 3, "shots": 2, "queries": 3}
    planned = plan(data, ClassificationProtocol.model_validate(kept | {"split": [0.5, 0.25, 0.25]}))
    corpus, train = labelled_corpus(planned), planned.rows("train")
    assert corpus.labels is not None
    assert corpus.labels.item.tolist() == data.text[train].tolist()
    held_out = np.concatenate([planned.rows("validation"), planned.rows("test")])
    assert bool(np.isin(data.text[held_out], corpus.items).all()) == (classes == "new")
    assert np.isin(data.text[held_out], corpus.items).any() == (classes == "new")
    unlabelled = data.text[data.label < 0]
    assert np.isin(unlabelled, corpus.items).all()


def test_an_encoder_is_adapted_once_and_resumed_where_it_was_killed(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained before a kill is not trained again, and the end is bit for bit that of a quiet night."""
    quiet = adapted(model, Reporter())
    weights = quiet.read().state_dict()
    assert quiet.adaptation is not None
    assert quiet.adaptation.steps == SECTION["steps"]
    assert quiet.adaptation.losses.keys() == set(SECTION["objectives"])
    again = Reporter()
    assert adapted(model, again).identity == quiet.identity
    assert again.steps == []
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "killed"))
    killed = multiprocessing.get_context("forkserver").Process(target=die_in_process, args=(model, tmp_path / "killed"))
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    resumed = Reporter()
    encoder = adapted(model, resumed)
    assert resumed.steps == [3, 4, 5, 6, 7], "killed before the fourth step's checkpoint"
    assert encoder.identity == quiet.identity
    assert all(torch.equal(tensor, weights[name]) for name, tensor in encoder.read().state_dict().items())
    assert not any((home() / "artifacts" / "encoders").glob("*/training"))
    # Damaged: made again, not used.
    (path,) = (home() / "artifacts" / "encoders").glob("*/adapted/*/weights.safetensors")
    path.write_bytes(DAMAGES["flipped"](path.read_bytes()))
    remade = Reporter()
    assert adapted(model, remade).identity == quiet.identity
    assert remade.steps == list(range(8))


def test_other_machines_take_the_encoder_from_the_store(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained again elsewhere it would not be the same to the last bit, and its workers would be refused."""
    monkeypatch.setenv("HPO_ARTIFACTS", f"file://{tmp_path / 'store'}")
    here = adapted(model, Reporter())
    monkeypatch.setenv("HPO_HOME", str(tmp_path / "elsewhere"))
    there = Reporter()
    assert adapted(model, there).identity == here.identity
    assert there.steps == []


def test_of_two_that_ask_at_once_one_trains(model: Path) -> None:
    """All workers of a study start at the same time."""
    reporters = [Reporter(), Reporter()]
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda each=each: found.append(adapted(model, each).identity)) for each in reporters
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 2
    assert sorted(len(reporter.steps) for reporter in reporters) == [0, 8]
    (waiting,) = (each for each in reporters if not each.steps)
    assert waiting.notes == ["another process adapts the encoder; waiting for it"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"objectives": ["labels"]}, "'labels' needs labels of classes, which a study of ranking does not have"),
        ({"objectives": ["mln"]}, "unknown objective 'mln'; did you mean 'mlm'?"),
        ({"objectives": ["mlm", "mlm"]}, "each objective once"),
        ({"objectives": []}, "teacher.adapt.objectives"),
        ({"objectives": ["mlm"], "within_days": 3}, "within_days = 3 has no effect with objectives = ['mlm']"),
        ({"objectives": ["contrastive"], "dropout": 0.0}, "dropout = 0 makes both readings of a text equal"),
        ({"step": 3}, "unknown key 'step' in [teacher.adapt]; did you mean 'steps'?"),
    ],
)
def test_a_section_that_cannot_be_is_refused(section: dict[str, Any], message: str) -> None:
    """One line with what was received and what is accepted, before anything is read."""
    with pytest.raises(InputError) as caught:
        tiny_spec(Path("none"), teacher={"adapt": section})
    assert message in str(caught.value)


def test_a_corpus_without_what_an_objective_reads_is_refused(model: Path) -> None:
    """One clear error before any work."""
    spec, encoder = study(model), encoders.load(study(model).teacher)
    corpus = corpus_of(planted_dataset())
    for lacking, message in (
        (replace(corpus, log=None), "finds no user who took two items within 1 days"),
        (Corpus(corpus.texts[:1], corpus.items[:1]), "finds 1 text that training may read"),
    ):
        with pytest.raises(InputError, match=message):
            stage.adapt(encoder, lacking, spec.teacher)
    labelled = tiny_labelled_spec(model, teacher={"adapt": {"objectives": ["labels"]}})
    one = labelled_corpus(plan(planted_texts(), labelled.protocol))
    assert one.labels is not None
    same = replace(one, labels=replace(one.labels, label=np.zeros_like(one.labels.label)))
    with pytest.raises(InputError, match="needs two training classes"):
        stage.adapt(encoder, same, labelled.teacher)
