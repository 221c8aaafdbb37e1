"""The recipes for containers and clusters: they fit their schemas, and say only what the command line understands.

Nothing here starts a container. What a recipe does by itself, handing on a password or a signal, is run for real.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import psycopg2
import pytest
import typer.main
import yaml

from hpo.cli import app
from storage.database.postgres import connect
from storage.database.server_files import Account, server_programs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
KUBERNETES = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
OUR_SERVICES = ("tables", "run", "worker", "dashboard")
PASSWORD = r"back\slash:colon 'quote' ümlaut*"


def tool(name: str) -> Path:
    """A linter's program, installed beside the Python that runs the tests."""
    return Path(sys.executable).with_name(name)


def with_defaults(text: str) -> str:
    """A compose file as it is read when none of its variables is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def services() -> dict[str, Any]:
    """The compose file's services."""
    found: dict[str, Any] = yaml.safe_load(with_defaults(COMPOSE))["services"]
    return found


def jobs() -> dict[str, Any]:
    """The specs of the Kubernetes Jobs, by name."""
    return {each["metadata"]["name"]: each["spec"] for each in KUBERNETES if each["kind"] == "Job"}


def hpo_lines(text: str) -> Iterator[list[str]]:
    """The arguments of every `hpo` in shell lines, also within quotes and behind variables."""
    for line in text.replace("\\\n", " ").splitlines():
        try:
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words = list(lexer)
        except ValueError:  # a line of prose with an apostrophe
            continue
        command: list[str] = []
        for word in [*words, ";"]:
            if re.fullmatch(r"[();<>|&]+", word):
                starts = [number for number, each in enumerate(command) if Path(each).name == "hpo"]
                if starts:
                    yield command[starts[0] + 1 :]
                command = []
            elif re.search(r"\bhpo \w", word) and word != line:
                yield from hpo_lines(word)
            else:
                command.append(word)


def guide_lines() -> list[list[str]]:
    """The `hpo` lines of the guide: of its blocks, indented or fenced, and those between backticks."""
    fenced = re.findall(r"^```\w*\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```\w*\n.*?^```", "", GUIDE, flags=re.DOTALL | re.MULTILINE)
    blocks = [*fenced, *re.findall(r"^ {4}(.*)$", rest, re.MULTILINE), *re.findall(r"`(hpo [^`]+)`", rest)]
    return [arguments for block in blocks for arguments in hpo_lines(block)]


def understands(arguments: list[str]) -> None:
    """Parses a command as `hpo` would, without running it; raises what `hpo` would print."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("hpo", list(arguments))
    while hasattr(command, "resolve_command"):
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, list(arguments), parent=context)


def test_the_check_of_commands_notices_a_wrong_verb_flag_and_value() -> None:
    """A check that lets everything pass would let the guide go out of date."""
    understands(["worker", "quickstart", "--wait"])
    understands(["db", "url"])
    for wrong in (["workers", "x"], ["worker", "x", "--wit"], ["run", "x.toml", "--engine", "slurm"], ["worker"]):
        with pytest.raises(Exception, match=r"(?i)no such|not one of|missing"):
            understands(wrong)


def test_the_check_of_commands_finds_them_wherever_a_shell_would() -> None:
    """A line that is not found is not checked."""
    script = (
        "A=1 hpo status a --json | jq .  # hpo nothing\n"
        'ssh host "cd x && nohup .venv/bin/hpo worker b \\\n --wait >log 2>&1 &"\n'
        "sbatch --wrap 'exec hpo run c.toml'; hpo stop d &\n"
    )
    assert list(hpo_lines(script)) == [
        ["status", "a", "--json"],
        ["worker", "b", "--wait"],
        ["run", "c.toml"],
        ["stop", "d"],
    ]


def test_every_command_of_the_guide_is_understood(subtests: pytest.Subtests) -> None:
    """A flag that was renamed would stay in the guide for ever."""
    for arguments in guide_lines():
        with subtests.test(msg=" ".join(arguments)):
            understands([{"STUDY.toml": "study.toml"}.get(each, each) for each in arguments])


def test_the_guide_has_commands() -> None:
    """Were its blocks not recognised any more, nothing would be checked."""
    verbs = {arguments[0] for arguments in guide_lines()}
    assert {"run", "launch", "worker", "status", "stop", "resume", "delete"} <= verbs


def test_compose_file_fits_the_specification() -> None:
    """A key that compose does not know is an error for some versions and ignored by others."""
    schema = json.loads((ROOT / "tests" / "data" / "compose-spec.json").read_text(encoding="utf-8"))
    for text in (COMPOSE, with_defaults(COMPOSE)):
        jsonschema.Draft7Validator(schema).validate(yaml.safe_load(text))


def test_every_command_of_the_compose_file_is_understood() -> None:
    """It would show first when somebody starts it."""
    ours = {name: service for name, service in services().items() if service["image"] == "scenetune"}
    assert set(ours) == set(OUR_SERVICES)
    for name, service in ours.items():
        assert service["entrypoint"] == ["with-password", "hpo"], name
        understands(service["command"])


def test_the_compose_files_study_is_in_the_image() -> None:
    """Workers wait for the name that the coordinator's file has; with another they would wait for ever."""
    study = Path(services()["run"]["command"][1])
    spec = tomllib.loads((ROOT / "studies" / study.name).read_text(encoding="utf-8"))
    assert services()["worker"]["command"][1] == spec["name"] == study.stem
    assert "COPY studies/*.toml /studies/\n" in DOCKERFILE
    assert study.parent == Path("/studies")


def test_nothing_is_published_beyond_loopback() -> None:
    """The dashboard has no login, and the database is nobody's business."""
    published = {name: service["ports"] for name, service in services().items() if "ports" in service}
    assert published == {"dashboard": ["127.0.0.1:8080:8080"]}
    assert all("network_mode" not in service for service in services().values())


def test_no_recipe_holds_a_password() -> None:
    """A password in a file is in its history, one in a container's settings is in `docker inspect`."""
    for service in services().values():
        assert set(service["environment"]) & {"POSTGRES_PASSWORD", "PGPASSWORD"} == set()
        assert service["secrets"] == ["db-password"]
    files = [ROOT / "Dockerfile", ROOT / "compose.yaml", ROOT / "docs" / "clusters.md", *DEPLOY.glob("*")]
    for file in files:
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            assert re.findall(r"postgresql\S*://[^\s@/]*:[^\s@/]+@", text) == [], file
            assert re.findall(r"(?i)^\s*(?:export )?(?:PG|POSTGRES_)PASSWORD\s*[:=]", text, re.MULTILINE) == [], file


def test_the_secret_reaches_neither_git_nor_the_image() -> None:
    """It lies beside the files that do."""
    path = yaml.safe_load(COMPOSE)["secrets"]["db-password"]["file"]
    ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False)
    assert ignored.returncode == 0
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    allowed = [rule[1:] for rule in rules if rule.startswith("!")]
    assert rules[1] == "*"
    assert not any(Path(path).is_relative_to(rule) for rule in allowed)
    sources = " ".join(re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)).split()
    for source in (each for each in sources if not each.startswith("--")):
        assert source.split("/*")[0] in allowed, f"{source} is not sent to the builder"


def test_the_image_gets_every_package() -> None:
    """It installs what setuptools finds; a package that is not found works in an editable install alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["packages"]["find"]["include"]
    layers = ("hpo", "distill", "studies", "storage")
    folders = {file.parent for layer in layers for file in (ROOT / layer).rglob("*.py")}
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)} == set()
    assert {folder for folder in folders if not (folder / "__init__.py").is_file()} == set()


def test_containers_run_as_the_images_user() -> None:
    """Root in a container owns what it writes on shared volumes, where the next one cannot."""
    user = re.findall(r"^USER (.*)$", DOCKERFILE, re.MULTILINE)
    assert user == ["10001:10001"]
    assert "useradd --uid 10001 " in DOCKERFILE
    assert all("user" not in service for service in services().values())
    for job in jobs().values():
        pod = job["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 10001


def test_signals_reach_the_program_and_leave_it_time() -> None:
    """A worker that is killed at once loses its trial, and the others learn of it a minute later."""
    assert re.search(r'^ENTRYPOINT \["hpo"\]$', DOCKERFILE, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", DOCKERFILE, re.MULTILINE)
    assert all(services()[name]["init"] for name in OUR_SERVICES)
    assert services()["worker"]["stop_grace_period"] == "2m"
    assert jobs()["scenetune-worker"]["template"]["spec"]["terminationGracePeriodSeconds"] == 120


def test_nothing_starts_a_stopped_study_again() -> None:
    """`hpo stop` ends the coordinator with 130; were it started again, it would go on with the study."""
    assert services()["run"]["restart"] == "no"
    rules = jobs()["scenetune-run"]["podFailurePolicy"]["rules"]
    assert {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [130]}} in rules


def test_one_service_builds_the_image() -> None:
    """Several that build the same tag at once fail on a machine that does not have it yet."""
    assert [name for name, service in services().items() if "build" in service] == ["tables"]


def test_dockerfile_passes_its_linter() -> None:
    """Caches left in layers, unpinned bases, shell forms: what reviews overlook."""
    done = subprocess.run([tool("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("script", ["slurm.sh", "with-password"])
def test_scripts_pass_their_linter(script: str) -> None:
    """They run where nobody looks."""
    done = subprocess.run([tool("shellcheck"), DEPLOY / script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("resource", KUBERNETES, ids=lambda each: f"{each['kind']} {each['metadata']['name']}")
def test_kubernetes_resources_fit_their_schemas(resource: dict[str, Any]) -> None:
    """1.31 is the oldest that knows all of it; strictly, since a server drops keys that it does not know."""
    for version in ("1.31", kubernetes_validate.latest_version()):
        kubernetes_validate.validate(resource, version, strict=True)


def test_kubernetes_commands_are_understood_and_hang_together() -> None:
    """A name that nothing has leaves pods pending without an error."""
    names = {(each["kind"], each["metadata"]["name"]) for each in KUBERNETES}
    assert set(jobs()) == {"scenetune-run", "scenetune-worker"}
    for job in jobs().values():
        pod = job["template"]["spec"]
        (container,) = pod["containers"]
        understands(container["args"])
        assert ("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]) in names
        assert ("PersistentVolumeClaim", pod["volumes"][0]["persistentVolumeClaim"]["claimName"]) in names
        assert container["volumeMounts"] == [{"name": pod["volumes"][0]["name"], "mountPath": "/state"}]


@pytest.fixture(scope="module")
def scram_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a server on loopback that asks user scenetune for `PASSWORD`, as compose's does."""
    folder = tmp_path_factory.mktemp("scram")
    account = Account.of(folder / "data")
    programs = server_programs(account)
    # The server's account has to pass through pytest's private folders.
    place = Path(tempfile.mkdtemp(prefix="scram-", dir="/tmp")) if account.drop_to else folder
    (place / "password").write_text(PASSWORD, encoding="utf-8")
    for path in (place, place / "password"):
        account.own(path)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def run(*command: str | Path) -> None:
        environment = os.environ | {"LC_ALL": "C"}
        subprocess.run(command, cwd=place, env=environment, check=True, stdout=subprocess.DEVNULL, **account.arguments)

    choices = ["-U", "scenetune", "-A", "scram-sha-256", "--pwfile=password", "-E", "UTF8", "--no-locale"]
    run(programs / "initdb", "-D", "data", *choices)
    server = f"-h 127.0.0.1 -p {port} -c unix_socket_directories="
    run(programs / "pg_ctl", "start", "-D", "data", "-l", "log", "-w", "-o", server)
    yield port
    run(programs / "pg_ctl", "stop", "-D", "data", "-m", "immediate", "-w")
    shutil.rmtree(place)


def test_the_secret_gets_to_the_database(scram_server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose mounts the secret readable by all, as libpq refuses it; the entry point makes what libpq takes."""
    secret, passfile = tmp_path / "db-password", tmp_path / "pgpass"
    secret.write_text(f"{PASSWORD}\n", encoding="utf-8")
    secret.chmod(0o444)
    passfile.write_text("left by the last start")
    environment = os.environ | {"DB_PASSWORD_FILE": str(secret), "PGPASSFILE": str(passfile)}
    # What comes after the entry point sees no password, and is process 1's own child no longer.
    script = 'echo "$$ ${PGPASSWORD-none}"'
    with subprocess.Popen(
        [DEPLOY / "with-password", "sh", "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.communicate()[0] == f"{process.pid} none\n"
    assert passfile.stat().st_mode & 0o777 == 0o600

    url = f"postgresql://scenetune@127.0.0.1:{scram_server}/postgres"
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", str(tmp_path / "absent"))
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(url)
    monkeypatch.setenv("PGPASSFILE", str(passfile))
    opened = connect(url)
    assert opened.storage.get_all_studies() == []
    opened.engine.dispose()
    passfile.chmod(0o444)
    with pytest.raises(psycopg2.OperationalError, match="no password supplied"):
        psycopg2.connect(url)


def test_without_the_secret_nothing_starts(tmp_path: Path) -> None:
    """Otherwise the program would report a password that the server refuses, and one would look there."""
    environment = {"PATH": os.environ["PATH"], "PGPASSFILE": str(tmp_path / "pgpass")}
    for named in ({}, {"DB_PASSWORD_FILE": str(tmp_path / "absent")}):
        done = subprocess.run(
            [DEPLOY / "with-password", "echo", "started"], env=environment | named, capture_output=True, check=False
        )
        assert done.returncode != 0
        assert done.stdout == b""


class Task:
    """A task of a SLURM job array: the batch script, with programs of the test's own in the place of hpo and scontrol.

    Args:
        folder: for the programs and what they write down.
        worker: Python that stands for the worker.
    """

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._write("hpo", f"#!{sys.executable}\nimport pathlib, signal, sys, time\n{worker}\n")
        self._write("scontrol", f'#!/bin/sh\necho "$@" >>"{folder}/requeued"\n')
        environment = os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "SLURM_JOB_ID": "71",
            "SLURM_ARRAY_JOB_ID": "70",
            "SLURM_ARRAY_TASK_ID": "3",
            "SLURM_CPUS_PER_TASK": "4",
        }
        self._process = subprocess.Popen(["bash", DEPLOY / "slurm.sh", "quickstart"], cwd=folder, env=environment)

    def signal(self, number: int) -> None:
        """Signals the batch shell alone, as `--signal=B:` does, once the worker works."""
        deadline = time.monotonic() + 30
        while not (self._folder / "works").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        self._process.send_signal(number)

    def end(self) -> int:
        """Its exit code."""
        return self._process.wait(30)

    def read(self, name: str) -> str:
        """What a program wrote down; nothing when it did not run."""
        file = self._folder / name
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text, encoding="utf-8")
        (self._folder / name).chmod(0o755)


# Takes a moment to put its trial back, as a worker does.
PUTS_BACK = """
def stop(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(0.3)
    pathlib.Path("put_back").write_text(str(number))
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("arguments").write_text(" ".join(sys.argv[1:]))
pathlib.Path("works").touch()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("signals", "requeued"),
    [
        ([signal.SIGUSR1], "requeue 70_3\n"),
        ([signal.SIGTERM], ""),
        # The second comes while the first is being obeyed.
        ([signal.SIGUSR1, signal.SIGTERM], "requeue 70_3\n"),
    ],
    ids=["time limit", "scancel", "time limit, then the end"],
)
def test_slurms_signal_reaches_the_worker(tmp_path: Path, signals: list[int], requeued: str) -> None:
    """Bash does not pass signals on: the worker would be killed two minutes later, and its trial lost.

    And only who met the time limit queues again: a cancelled task that came back could not be got rid of.
    """
    task = Task(tmp_path, PUTS_BACK)
    for number in signals:
        task.signal(number)
        time.sleep(0.1)
    assert task.end() == 130
    assert task.read("put_back") == str(int(signal.SIGTERM))
    assert task.read("requeued") == requeued
    understands(task.read("arguments").split())
    assert task.read("arguments") == "worker quickstart --wait --threads 4"


def test_a_slurm_task_whose_worker_did_not_listen_yet_queues_again(tmp_path: Path) -> None:
    """A worker that still imports dies of the signal instead of ending in order; it had no trial to put back."""
    task = Task(tmp_path, "pathlib.Path('works').touch()\ntime.sleep(60)")
    task.signal(signal.SIGUSR1)
    assert task.end() == 128 + signal.SIGTERM
    assert task.read("requeued") == "requeue 70_3\n"


@pytest.mark.parametrize(("code", "signalled"), [(0, False), (2, False), (0, True)])
def test_a_slurm_task_whose_worker_is_done_does_not_come_back(tmp_path: Path, code: int, signalled: bool) -> None:
    """The study is finished, or the worker's settings are wrong: queueing again would go on for ever."""
    worker = f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({code}))\npathlib.Path('works').touch()\n"
    worker += "time.sleep(60)" if signalled else f"sys.exit({code})"
    task = Task(tmp_path, worker)
    if signalled:
        task.signal(signal.SIGUSR1)
    assert task.end() == code
    assert task.read("requeued") == ""
