"""The study file: what is refused, in which words, and what counts as the same study."""

import re
from pathlib import Path
from typing import Any

import pytest

from distill.hyperparameters import StudentHyperparameters
from storage.errors import InputError
from studies.classification import search_space
from studies.config.definition import TeacherSection
from studies.config.distill_section import default_student_space
from studies.config.hyperparameters import Hyperparameters
from studies.config.search_domains import Range, check_domain
from studies.config.search_parameters import SEARCHED, default_space
from studies.config.spec import StudySpec, differences, load_spec, parse_spec
from studies.learners.registry import RANKING_LEARNERS
from studies.model.encoder import load, locate

MINIMAL: dict[str, Any] = {"name": "shop", "data": {"source": "completejourney"}}


def spec(**sections: Any) -> StudySpec:
    return parse_spec(MINIMAL | sections, "shop.toml")


def files(**keys: Any) -> dict[str, Any]:
    """Changes to `[data]` of a study on the user's own files; None leaves a key out."""
    data = {"source": "files", "interactions": "log.csv", "scene": "category", "text": "title"} | keys
    return {"data": {key: value for key, value in data.items() if value is not None}}


def space(**domains: Any) -> dict[str, Any]:
    return {"search": {"space": domains}}


# Sections → what the message must say: the place, the value received, the nearest or accepted values.
BAD: list[tuple[dict[str, Any], list[str]]] = [
    ({"serach": {}}, ["'serach'", "top level", "did you mean 'search'?"]),
    ({"seed": 3}, ["'seed'", "top level", "accepted: name, task, protocol, teacher"]),
    ({"task": "rankign"}, ["takes 'ranking'", "got 'rankign'"]),
    ({"search": {"trails": 3}}, ["'trails'", "[search]", "did you mean 'trials'?"]),
    ({"pruner": {"rung": [1]}}, ["'rung'", "[pruner]", "did you mean 'rungs'?"]),
    (space(inner_lr={"low": 1, "hihg": 2}), ["'hihg'", "[search.space.inner_lr]", "did you mean 'high'?"]),
    (space(iner_lr=0.1), ["search.space", "'iner_lr'", "did you mean 'inner_lr'?"]),
    (space(inner_lr={"low": 1}), ["search.space.inner_lr.high is required"]),
    ({"data": {}}, ["data.source is required"]),
    ({"data": {"source": "movielens"}}, ["data.source", "'completejourney'", "got 'movielens'"]),
    ({"data": {}}, ['"files" or "completejourney"', "docs/data.md"]),
    (files(scene=None), ['data.scene is required, such as scene = "category"; see docs/data.md']),
    (
        {"data": {"source": "files"}},
        ["data.interactions, data.scene, data.text are required", 'interactions = "purchases.csv", scene = "category"'],
    ),
    (files(positive={"values": ["buy"]}), ["data.positive.column is required; see docs/data.md"]),
    (files(decimal=";"), ["data.decimal", "'.' or ','", "';'"]),
    (files(intractions="log.csv"), ["'intractions'", "[data]", "did you mean 'interactions'?"]),
    (files(positive={"colum": "event"}), ["'colum'", "[data.positive]", "did you mean 'column'?"]),
    ({"data": {"source": "completejourney", "time": "t"}}, ["unknown key 'time' in [data]"]),
    (
        files(scene="user_id", min_users=1),
        ["each user is a scene", "give the answers away", 'protocol.candidates = "all"'],
    ),
    (
        files(scene="user_id", min_users=100) | {"protocol": {"candidates": "all"}},
        ["each user is a scene", "min_users = 100", "set min_users = 1"],
    ),
    (files(min_items=10), ["data.min_items = 10", "protocol.k = 10", "always 1", "above 10"]),
    ({"protocol": {"report_shots": [1, 5, 5]}}, ["protocol.report_shots", "must increase", "[1, 5, 5]"]),
    ({"protocol": {"report_shots": []}}, ["protocol.report_shots", "at least 1", "[]"]),
    ({"protocol": {"repeat": "never"}}, ["protocol.repeat", "'allow' or 'exclude'", "'never'"]),
    ({"search": {"trials": "3"}}, ["search.trials", "a whole number", "got '3'"]),
    ({"search": {"trials": True}}, ["search.trials", "a whole number", "got True"]),
    ({"search": {"trials": 2.5}}, ["search.trials", "a whole number", "got 2.5"]),
    ({"search": {"trials": 0}}, ["search.trials", "greater than 0", "got 0"]),
    ({"search": 3}, ["search: takes a table", "got 3"]),
    ({"search": {"space": 3}}, ["search.space: takes a table", "got 3"]),
    ({"search": {"sampler": "tpee"}}, ["search.sampler", "'tpe', 'random', 'grid' or 'gp'", "got 'tpee'"]),
    ({"search": {"timeout_minutes": float("inf")}}, ["search.timeout_minutes", "finite number", "got inf"]),
    (space(), ["search.space", "empty", "leave [search.space] out"]),
    (space(inner_lr={"low": 2, "high": 1}), ["search.space.inner_lr", "low = 2", "high = 1", "swap"]),
    (space(inner_lr={"low": 0, "high": 1, "log": True}), ["search.space.inner_lr", "above 0", "low = 0"]),
    (space(inner_lr={"low": "a", "high": 1}), ["search.space.inner_lr.low", "a number", "got 'a'"]),
    (space(inner_lr={"low": 1, "high": 2, "log": "yes"}), ["search.space.inner_lr.log", "true or false", "'yes'"]),
    (space(inner_lr={"low": 0.1, "high": float("inf")}), ["search.space.inner_lr.high", "finite", "inf"]),
    (space(inner_lr=True), ["search.space.inner_lr", "a list or a number or a string or a table", "got True"]),
    (space(inner_lr="fast"), ["search.space", "inner_lr takes numbers", "got 'fast'"]),
    (space(inner_lr=float("nan")), ["search.space.inner_lr", "finite", "nan"]),
    (space(outer_lr=[0.1, float("inf")]), ["search.space", "outer_lr must be finite", "inf"]),
    (space(inner_lr=-0.1), ["search.space", "inner_lr must be above 0", "got -0.1"]),
    (space(outer_lr=[0.1, -1]), ["search.space", "outer_lr must be above 0", "got -1"]),
    (space(inner_steps=1.5), ["search.space", "inner_steps takes whole numbers", "got 1.5"]),
    (space(inner_steps={"low": 1, "high": 2.5}), ["search.space", "inner_steps takes whole numbers", "got 2.5"]),
    (space(inner_steps=[]), ["search.space", "inner_steps has an empty list"]),
    (space(meta_batch_size=[4, 8, 4]), ["search.space", "meta_batch_size lists a value twice", "[4, 8, 4]"]),
    (space(inner_lr=[1, 1.0]), ["search.space", "inner_lr lists a value twice"]),
    (space(learner=["anil", "anil"]), ["search.space", "learner lists a value twice", "'anil'"]),
    (space(learner=["protonet", "anli"]), ["search.space", "unknown learner 'anli'", "did you mean 'anil'?"]),
    (space(learner="xyz"), ["search.space", "unknown learner 'xyz'", "accepted: " + ", ".join(RANKING_LEARNERS)]),
    (space(learner=["anil", "ridge"]), ["search.space", "unknown learner 'ridge'"]),
    ({"search": {"learners": {"ridge": {"outer_lr": 0.1}}}}, ["search.learners", "unknown learner 'ridge'"]),
    (space(learner={"low": 1, "high": 2}), ["search.space", "unknown learner 1", "accepted: protonet"]),
    (
        {"search": {"sampler": "grid", "space": {"outer_lr": {"low": 0.1, "high": 0.2}}}},
        ["search", '"grid"', "outer_lr is a real range", "outer_lr = [0.1, 0.2]"],
    ),
    (
        space(learner="protonet", inner_lr=0.1),
        ["inner_lr has no use", "no learner of protonet takes gradient steps", "leave it"],
    ),
    (space(trainable_layers=0, encoder_lr=1e-5), ["encoder_lr has no use", "trainable_layers is 0", "leave it out"]),
    (space(inner_steps=0), ["inner_steps must be at least 1", "got 0"]),
    (space(encoder_lr=-1e-5), ["encoder_lr must be above 0", "got -1e-05"]),
    (space(dropout=[0.1, 1.0]), ["dropout must be below 1", "got 1.0"]),
    ({"search": {"learners": {"mmal": {}}}}, ["search.learners", "unknown learner 'mmal'", "did you mean 'maml'?"]),
    ({"search": {"learners": {"maml": {"iner_lr": 1}}}}, ["search.learners", "'iner_lr'", "did you mean 'inner_lr'?"]),
    ({"search": {"learners": {"protonet": {"inner_lr": 1}}}}, ["inner_lr has no use to protonet"]),
    ({"search": {"learners": {"maml": {"learner": "anil"}}}}, ["learner cannot differ by learner", "[search.space]"]),
    ({"search": {"cost_minutes": 0}}, ["search.cost_minutes", "greater than 0"]),
    ({"pruner": {"resource": "epochs"}}, ["pruner.resource", "'updates' or 'seconds'", "got 'epochs'"]),
    (
        {"teacher": {"attention": "sdpa"}},
        ['teacher.attention = "sdpa"', "no second derivative", "maml", 'attention = "auto"'],
    ),
    ({"pruner": {"rungs": [2, 4, 4]}}, ["pruner.rungs", "must increase", "[2, 4, 4]"]),
    ({"pruner": {"rungs": []}}, ["pruner.rungs", "at least 1 item"]),
    ({"pruner": {"rungs": [0]}}, ["pruner.rungs.0", "greater than 0", "got 0"]),
    ({"pruner": {"rungs": 3}}, ["pruner.rungs", "takes a list", "got 3"]),
    ({"pruner": {"eta": 1}}, ["pruner.eta", "greater than or equal to 2", "got 1"]),
    ({"pruner": {"kind": "hyperband"}}, ["pruner.kind", "'recall' or 'none'", "got 'hyperband'"]),
    ({"protocol": {"split": [0.5, 0.2, 0.2]}}, ["protocol", "split must add up to 1", "[0.5, 0.2, 0.2] = 0.9"]),
    ({"protocol": {"split": [0.5, 0.5]}}, ["protocol.split", "takes 3 fractions", "[0.5, 0.5]"]),
    ({"protocol": {"timeline": [0.2, 0.5, 0.7]}}, ["protocol.timeline", "takes 2 fractions", "[0.2, 0.5, 0.7]"]),
    ({"protocol": {"timeline": [0.8, 0.6]}}, ["protocol", "timeline must increase", "[0.8, 0.6]"]),
    ({"protocol": {"min_queries": 30}}, ["protocol", "min_queries = 30", "train_queries = 24", "set it to 24 or less"]),
    ({"protocol": {"openings": 4}}, ["protocol.openings", "greater than or equal to 5", "got 4"]),
    ({"protocol": {"window_days": "28"}}, ["protocol.window_days", "a number", "got '28'"]),
    ({"protocol": {"window_days": float("inf")}}, ["protocol.window_days", "finite number", "got inf"]),
    ({"name": "../shop"}, ["name", "'../shop'", "without / or \\", "rename"]),
    ({"name": ""}, ["name", "''", "rename"]),
    ({"name": 3}, ["name", "a string", "got 3"]),
    ({"teacher": {"sha256": "abc"}}, ["teacher.sha256", "[0-9a-f]{64}", "got 'abc'"]),
]


def test_a_wrong_study_file_gives_one_line_with_place_value_and_remedy(subtests: pytest.Subtests) -> None:
    """A message in the validator's own words leaves the user guessing which key of which table to change."""
    jargon = r"\n|pydantic|validation|instance of|Input |tuple|dictionary|Section|_error|_type|Domain|union"
    for sections, said in BAD:
        with subtests.test(msg=" / ".join(said[:2])):
            with pytest.raises(InputError) as refused:
                spec(**sections)
            message = str(refused.value)
            assert message.startswith("shop.toml: ")
            assert [part for part in said if part not in message] == []
            assert not re.search(jargon, message), message


def test_the_misspelt_key_is_named_and_not_the_required_one_it_leaves_missing() -> None:
    """To be told that the name in plain view is missing would send the user hunting in the wrong place."""
    with pytest.raises(InputError, match=r"unknown key 'nmae' at the top level; did you mean 'name'\?"):
        parse_spec({"nmae": "shop", "data": {"source": "completejourney"}})


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"cannot read the study file .*study\.toml: No such file.*; give the path of a TOML file"),
        (b"name = shop", r"study\.toml is not valid TOML: .*line 1"),
        ("name = 'caf\u00e9'".encode("latin-1"), r"study\.toml is not UTF-8 text .*; a study file is TOML"),
        (b"name = 'shop'\n[data]\nsource = 'completejourney'\n[searhc]", r"study\.toml: unknown key 'searhc'"),
    ],
    ids=["missing", "not TOML", "not UTF-8", "unknown key"],
)
def test_an_unreadable_study_file_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Without the path, a user with several study files cannot tell which one is meant."""
    path = tmp_path / "study.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said):
        load_spec(path)


def test_a_folder_in_place_of_the_study_file_is_refused(tmp_path: Path) -> None:
    """`hpo run studies/` must not end in a traceback."""
    with pytest.raises(InputError, match="cannot read the study file"):
        load_spec(tmp_path)


def test_a_study_file_is_read_as_written(tmp_path: Path) -> None:
    """A key that is accepted but ignored would run another experiment than the one asked for."""
    path = tmp_path / "study.toml"
    path.write_text(
        "name = 'caf\u00e9'\n"
        "[data]\nsource = 'completejourney'\nmin_items = 17\n"
        "[protocol]\nsplit = [0.5, 0.25, 0.25]\nwindow_days = 3.5\n"
        "[search]\ntrials = 4\n"
        "[search.space]\nlearner = ['anil']\ninner_lr = {low = 0.1, high = 0.2, log = true}\ninner_steps = 2\n"
        "[pruner]\nrungs = [1, 3]\n",
        encoding="utf-8",
    )
    read = load_spec(path)
    assert (read.name, read.data.min_items, read.protocol.window_days) == ("caf\u00e9", 17, 3.5)
    assert read.protocol.split == (0.5, 0.25, 0.25)
    assert (read.search.trials, read.pruner.rungs) == (4, [1, 3])
    assert read.search.space == default_space() | {
        "learner": ["anil"],
        "inner_lr": Range(low=0.1, high=0.2, log=True),
        "inner_steps": 2,
    }


def test_every_searched_parameter_is_a_hyperparameter() -> None:
    """A parameter that no learner or student takes would fail each trial, one by one."""
    assert set(SEARCHED) == set(default_space())
    assert set(search_space.SEARCHED) == set(search_space.default_space())
    assert set(SEARCHED) | set(search_space.SEARCHED) == set(Hyperparameters.__dataclass_fields__)
    for name, domain in search_space.default_space().items():
        check_domain(name, domain, search_space.SEARCHED)
    assert list(default_student_space()) == list(StudentHyperparameters().to_dict())


@pytest.mark.parametrize(
    ("distill", "message"),
    [
        ({"layers": 2}, "unknown key 'layers' in [distill]"),
        ({"space": {"layer": 2}}, "unknown parameter 'layer'; did you mean 'layers'?"),
        ({"space": {"layers": 0}}, "layers must be at least 1, got 0"),
        ({"space": {"init": ["middle"]}}, "unknown init 'middle'"),
        ({"space": {"vocabulary": "small"}}, "unknown vocabulary 'small'"),
        ({"space": {"temperature": 0}}, "temperature must be above 0"),
        ({"space": {"embedding": [0, 1.0]}}, "leaves texts nothing to be trained by"),
        ({"space": {"listwise": 0.0, "hard": 0.0}}, "leaves rankings nothing to be trained by"),
        ({"objectives": ["latency"]}, 'objectives start with "recall"'),
        ({"objectives": ["recall", "recall"]}, 'objectives start with "recall", each once'),
        ({"objectives": ["recall", "beauty"]}, "beauty"),
        ({"retain": 1.5}, "retain"),
    ],
)
def test_a_distillation_that_means_nothing_is_refused(distill: dict[str, Any], message: str) -> None:
    """Found after the search, it would have cost the whole search."""
    with pytest.raises(InputError) as caught:
        spec(distill=distill)
    assert message in str(caught.value)


def test_ranking_losses_may_all_be_off_where_nothing_is_ranked() -> None:
    """Matching texts alone is the cheapest distillation there is."""
    section = spec(distill={"rank_steps": 0, "space": {"listwise": 0.0, "hard": 0.0}}).distill
    assert section.steps == section.embed_steps == section.rungs[-1]
    assert not section.applies("listwise", {})
    assert not section.applies("temperature", {})
    assert section.teachers == 2


def test_a_student_parameter_without_use_is_not_searched() -> None:
    """The sampler would learn from noise."""
    section = spec().distill
    assert not section.applies("hidden", {"layers": 1})
    assert section.applies("hidden", {"layers": 2})
    assert not section.applies("spelling", {"vocabulary": "full"})
    assert not section.applies("temperature", {"listwise": 0.0})


def test_a_space_of_learners_without_inner_loop_has_no_inner_parameters() -> None:
    """Trials would differ in values that change nothing, and the sampler would model them."""
    assert {"inner_lr", "inner_steps"} & spec(**space(learner="protonet")).search.space.keys() == set()
    assert {"inner_lr", "inner_steps"} <= spec(**space(learner=["protonet", "fomaml"])).search.space.keys()


@pytest.mark.parametrize(
    "sections",
    [
        {},
        space(learner=["protonet"]),
        space(learner="anil", inner_lr={"low": 1, "high": 4}, outer_lr=0.01, inner_steps=[1, 2]),
        {
            "protocol": {"split": [0.5, 0.25, 0.25], "timeline": [0.5, 0.7], "window_days": 7},
            "teacher": {"encoder": "/models/x", "sha256": "0" * 64},
            "search": {"sampler": "random", "timeout_minutes": 1.5, "workers": 2},
            "export": {"folder": "out"},
        },
    ],
)
def test_a_spec_survives_the_database(sections: dict[str, Any]) -> None:
    """The stored JSON is all that a worker reads: what it loses, the worker would search without."""
    given = spec(**sections)
    assert parse_spec(given.model_dump(mode="json")) == given
    assert parse_spec(given.model_dump(mode="json")).identity() == given.identity()


@pytest.mark.parametrize(
    "sections",
    [
        {"search": {"trials": 99}},
        {"search": {"timeout_minutes": 5}},
        {"search": {"workers": 7}},
        {"distill": {"trials": 9}},
        {"distill": {"extensions": 0}},
        {"export": {"folder": "elsewhere"}},
    ],
)
def test_budgets_and_folders_do_not_make_another_study(sections: dict[str, Any]) -> None:
    """Giving a study more trials must resume it, not be refused as a changed study."""
    assert spec(**sections) != spec()
    assert spec(**sections).identity() == spec().identity()
    assert differences(spec().identity(), spec(**sections).identity()) == []


@pytest.mark.parametrize(
    ("sections", "key", "new"),
    [
        (space(inner_lr=0.2), "search.space.inner_lr", "0.2"),
        (space(learner=["anil"]), "search.space.learner", "['anil']"),
        ({"search": {"sampler": "random"}}, "search.sampler", "'random'"),
        ({"search": {"seed": 9}}, "search.seed", "9"),
        ({"protocol": {"shots": 77}}, "protocol.shots", "77"),
        ({"protocol": {"split": [0.5, 0.3, 0.2]}}, "protocol.split", "[0.5, 0.3, 0.2]"),
        ({"data": {"source": "completejourney", "max_scenes": 99}}, "data.max_scenes", "99"),
        ({"pruner": {"rungs": [1, 77]}}, "pruner.rungs", "[1, 77]"),
        ({"teacher": {"max_tokens": 9}}, "teacher.max_tokens", "9"),
        ({"distill": {"space": {"layers": 1}}}, "distill.space.layers", "1"),
        ({"distill": {"objectives": ["recall", "size"]}}, "distill.objectives", "['recall', 'size']"),
        ({"name": "other"}, "name", "'other'"),
    ],
)
def test_a_changed_experiment_is_another_study_and_the_change_is_named(
    sections: dict[str, Any], key: str, new: str
) -> None:
    """Trials of two search spaces or protocols under one name would be compared as if they were one."""
    (line,) = differences(spec().identity(), spec(**sections).identity())
    assert line.startswith(f"{key}: ")
    assert line.endswith(f" → {new}")


def test_a_change_is_told_from_old_to_new() -> None:
    """The wrong way round, the user would correct the study file into the mistake."""
    old, new = spec(**space(inner_lr={"low": 0.1, "high": 0.5})), spec(**space(inner_lr={"low": 0.2, "high": 0.5}))
    assert differences(old.identity(), new.identity()) == [
        "search.space.inner_lr: {low = 0.1, high = 0.5, log = False} → {low = 0.2, high = 0.5, log = False}"
    ]
    old, new = spec(protocol={"shots": 3}), spec(protocol={"shots": 4})
    assert differences(old.identity(), new.identity()) == ["protocol.shots: 3 → 4"]


def test_a_parameter_that_only_one_side_has_is_named() -> None:
    """Dropping a learner with an inner loop also drops its parameters; the message must not crash on that."""
    lines = differences(spec().identity(), spec(**space(learner="protonet")).identity())
    assert any(line.startswith("search.space.inner_steps: ") for line in lines)


def test_a_relative_encoder_starts_at_the_study_files_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As data do: the study file and what is beside it move together, and are started from anywhere."""
    (tmp_path / "study" / "my" / "bert").mkdir(parents=True)
    (tmp_path / "elsewhere" / "bert-base-uncased").mkdir(parents=True)
    (tmp_path / "study" / "shop.toml").write_text('name = "shop"\n[data]\nsource = "completejourney"\n')
    monkeypatch.chdir(tmp_path / "elsewhere")
    beside = str(tmp_path / "study" / "my" / "bert")
    for written, read in {
        "./my/bert": beside,
        "my/bert": beside,
        "../study/my/bert": beside,
        beside: beside,
        "./missing": str(tmp_path / "study" / "missing"),
        "minilm": "minilm",
        "bert-base-uncased": "bert-base-uncased",
        "google/bert": "google/bert",
        "my/models/bert": str(tmp_path / "study" / "my" / "models" / "bert"),
        "missing/": str(tmp_path / "study" / "missing"),
    }.items():
        study = tmp_path / "study" / "of.toml"
        study.write_text((tmp_path / "study" / "shop.toml").read_text() + f'[teacher]\nencoder = "{written}"\n')
        spec = load_spec(study)
        assert spec.teacher.encoder == read
        # What is stored is read again from anywhere.
        assert parse_spec(spec.model_dump(mode="json")) == spec
    assert locate(TeacherSection(encoder="google/bert")) == ("google/bert", None)
    # transformers would take the folder of the working directory for the hub's model.
    with pytest.raises(
        InputError, match=r"no folder beside the study file.*write '.*/elsewhere/bert-base-uncased' for that"
    ):
        load(TeacherSection(encoder="bert-base-uncased"))
