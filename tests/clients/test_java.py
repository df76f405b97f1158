"""The client in Java keeps the promise of the stream, works as printed, and serves others as it is published."""

import asyncio
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from reward_client_kit import Verdict

from .stage import (
    BUILD,
    CLIENTS,
    PRINTED_TARGET,
    ROOT,
    SCENARIO_NAMES,
    Finished,
    RealService,
    code_block,
    kit,
    need,
    run,
    running,
)
from .test_start import follow

pytestmark = pytest.mark.timeout(600)
JAVA = CLIENTS / "java"
OUT = BUILD / "java"
REPOSITORY = OUT / "repository"
"""A local Maven repository of our own: what is published into it by a test stays out of everybody else's."""
PUBLISHED = REPOSITORY / "com/rewardservice/rewardservice-client/0.1.0"
CLASSPATH = re.findall(r"^mvn -q (\S+:build-classpath \S+)$", (JAVA / "README.md").read_text(), re.MULTILINE)[0].split()
"""What the README asks Maven for before it starts its program, the version of the plugin included."""
QUICK = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx128m", "-Xlog:disable")
"""For programs that are over before a compiler could make them faster."""
SHIPPED = {"grpc": "1.85.1", "protobuf": "3.25.9"}
OTHERS = {"an old gRPC": {"grpc": "1.50.0"}, "a new protobuf": {"protobuf": "4.36.2"}}
"""What a project may have beside our package; what isn't named is as shipped."""
SOME_SCENARIOS = ("cut-after-update", "permission-denied")
CARD = re.compile(r"^CNRY\d+ CNRY(-\w+)+$", re.MULTILINE)
VERSIONS = re.compile(r"^version (\d+): \w+$", re.MULTILINE)
PROJECT = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>example</groupId>
  <artifactId>quickstart</artifactId>
  <version>1</version>
  <dependencyManagement>
    <dependencies>
      <dependency>
        <groupId>io.grpc</groupId>
        <artifactId>grpc-bom</artifactId>
        <version>{grpc}</version>
        <type>pom</type>
        <scope>import</scope>
      </dependency>
      <dependency>
        <groupId>com.google.protobuf</groupId>
        <artifactId>protobuf-java</artifactId>
        <version>{protobuf}</version>
      </dependency>
    </dependencies>
  </dependencyManagement>
  <dependencies>
{dependency}
  </dependencies>
</project>
"""


def tool(*words: str | Path, folder: Path = JAVA) -> str:
    """What a command prints. Fails with what it complains of."""
    environment = {**os.environ, "MAVEN_OPTS": " ".join(QUICK[:2])}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mvn(*words: str, folder: Path = JAVA) -> None:
    """Runs Maven with the repository of the tests."""
    tool("mvn", "--batch-mode", "--quiet", f"-Dmaven.repo.local={REPOSITORY}", *words, folder=folder)


@pytest.fixture(scope="module")
def published() -> Path:
    """The folder with the package as it is published; its own tests have passed on the way."""
    need("java", "javac", "jar", "mvn")
    shutil.rmtree(PUBLISHED.parent, ignore_errors=True)
    # What `make clients` does: no stub of a former contract is left.
    tool(JAVA / "generate", f"-Dmaven.repo.local={REPOSITORY}", folder=ROOT)
    mvn("install")
    return PUBLISHED


def classpath(folder: Path, versions: dict[str, str]) -> str:
    """What an empty project gets that names the package as the README says, beside some versions of others."""
    dependency = code_block(JAVA / "README.md", "xml")
    (folder / "pom.xml").write_text(PROJECT.format(dependency=dependency, **{**SHIPPED, **versions}))
    mvn(*CLASSPATH, folder=folder)
    return (folder / "classpath").read_text().strip()


@pytest.fixture(scope="module")
def project(published: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The class path of an empty project, with the examples compiled in it."""
    folder = tmp_path_factory.mktemp("java")
    others = classpath(folder, SHIPPED)
    examples = sorted((JAVA / "examples").glob("*.java"))
    tool("javac", "-d", "classes", "-cp", others, "-Xlint:all", "-Werror", *examples, folder=folder)
    # In a jar: classes of folders can't be kept ready for the next start.
    tool("jar", "--create", "--file", "examples.jar", "-C", "classes", ".", folder=folder)
    return f"{folder}/examples.jar:{others}"


@pytest.fixture(scope="module")
def verdicts(project: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """What the client made of every scenario."""
    # Most of the time would go into loading the same classes 32 times; so one run leaves them ready for the others.
    ready = tmp_path_factory.mktemp("ready") / "classes.jsa"
    first = ["java", *QUICK, f"-XX:ArchiveClassesAtExit={ready}", "-cp", project, "KitClient"]
    asyncio.run(kit(first, names=["cut-after-update"]))
    assert ready.exists()
    return asyncio.run(kit(["java", *QUICK, f"-XX:SharedArchiveFile={ready}", "-cp", project, "KitClient"]))


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_the_java_client_keeps_the_promise(verdicts: dict[str, Verdict], name: str) -> None:
    """Whatever the server does, every update is shown once and in order, and nobody is harried."""
    assert verdicts[name].complaints == (), verdicts[name].last_words


@pytest.mark.parametrize("versions", OTHERS.values(), ids=OTHERS.keys())
async def test_it_works_beside_other_versions(project: str, versions: dict[str, str], tmp_path: Path) -> None:
    """A project may have its own gRPC and protobuf already."""
    others = classpath(tmp_path, versions)
    for library, version in versions.items():
        assert re.search(rf"{library}-(stub|java)-{re.escape(version)}\.jar", others), others
    examples = project.partition(":")[0]
    words = ["java", *QUICK, "-cp", f"{examples}:{others}", "KitClient"]
    for name, verdict in (await kit(words, names=SOME_SCENARIOS)).items():
        assert verdict.complaints == (), (name, verdict.last_words)


def test_the_package_is_complete(published: Path) -> None:
    """The stubs, the contract and the sources are in it, and it asks for no annotations."""
    with zipfile.ZipFile(published / "rewardservice-client-0.1.0.jar") as jar:
        names = jar.namelist()
        stub = jar.read("com/rewardservice/v1/RewardServiceGrpc.class")
    assert "rewardservice/v1/reward_service.proto" in names
    assert "com/rewardservice/v1/OperatorServiceGrpc.class" in names
    assert b"javax/annotation" not in stub
    for file in published.glob("*.jar"):
        with zipfile.ZipFile(file) as jar:
            assert jar.read("META-INF/LICENSE") == (ROOT / "LICENSE").read_bytes(), file
    with zipfile.ZipFile(published / "rewardservice-client-0.1.0-sources.jar") as jar:
        assert {"com/rewardservice/client/Watch.java", "com/rewardservice/v1/Order.java"} <= set(jar.namelist())


async def probe(project: str, folder: Path, *words: str, key: str = "dev-key") -> Finished:
    """Lets the example that makes every call talk to a service."""
    program = ("java", *QUICK, "-cp", project, "Probe", *words)
    return await run(*program, errors=folder / "errors", environment={"REWARDSERVICE_KEY": key})


async def test_every_call_does_what_it_says(project: str, service: RealService, tmp_path: Path) -> None:
    """Orders, pages, masked and full cards, a cancel that comes too late."""
    done = await probe(project, tmp_path, "calls", service.target)
    assert done.code == 0, done.errors
    number = service.books("kasushou")[0]["delivered"][0]["card_no"]
    assert done.output.splitlines() == [
        f"waited FULFILLED {number}",
        "again true",
        "masked true true",
        f"full {number}",
        "orders probe-2,probe-1",
        "updates 1 true",
        "products true",
        "cancel FAILED_PRECONDITION ORDER_NOT_CANCELLABLE [] [] traced",
    ]


async def test_errors_say_what_is_wrong(project: str, service: RealService, tmp_path: Path) -> None:
    """By code, by reason, field by field, and under which id to go on."""
    done = await probe(project, tmp_path, "errors", service.target)
    assert done.code == 0, done.errors
    assert done.output.splitlines() == [
        "product NOT_FOUND PRODUCT_NOT_FOUND [] [probe-3] traced",
        "fields INVALID_ARGUMENT INVALID_REQUEST [client_order_id,quantity] [an odd id!] traced",
        "order NOT_FOUND ORDER_NOT_FOUND [] [] traced",
        "key UNAUTHENTICATED UNAUTHENTICATED [] [] traced",
    ]


async def test_the_same_holds_over_mutual_tls(project: str, tmp_path: Path) -> None:
    """With an authority of one's own and a client certificate."""
    async with RealService(tmp_path / "service", tls=True) as service:
        assert service.tls is not None
        files = map(str, (service.tls.ca, service.tls.certificate, service.tls.key))
        done = await probe(project, tmp_path, "calls", service.target, *files)
        assert "waited FULFILLED" in done.output, done.errors


async def test_a_client_is_known_by_its_certificate_and_sends_no_key(project: str, tmp_path: Path) -> None:
    """Who sends one that isn't the certificate's client's is refused."""
    async with RealService(tmp_path / "service", client_from_certificate=True) as service:
        assert service.tls is not None
        files = map(str, (service.tls.ca, service.tls.certificate, service.tls.key))
        words = ("calls", service.target, *files)
        done = await probe(project, tmp_path, *words, key="")
        assert "waited FULFILLED" in done.output, done.errors
        refused = await probe(project, tmp_path, *words, key="dev-key")
        assert "UNAUTHENTICATED" in refused.errors


def test_the_quickstart_is_short_and_the_one_of_the_readme() -> None:
    """The program in the package and the printed one are the same."""
    program = code_block(JAVA / "README.md", "java")
    assert program == (JAVA / "examples/Quickstart.java").read_text()
    assert len(program.splitlines()) <= 30


def quickstart(project: str, folder: Path, target: str) -> list[str]:
    """Runs the program of the README, but for where the server is."""
    program = code_block(JAVA / "README.md", "java")
    assert PRINTED_TARGET in program
    (folder / "Quickstart.java").write_text(program.replace(PRINTED_TARGET, target))
    return ["java", *QUICK, "-cp", project.partition(":")[2], str(folder / "Quickstart.java")]


async def test_the_quickstart_works_as_printed(project: str, service: RealService, tmp_path: Path) -> None:
    """From an empty project; a second run prints the same card, and it was bought once."""
    cards = []
    for _ in range(2):
        done = await run(*quickstart(project, tmp_path, service.target), errors=tmp_path / "errors")
        assert (done.code, done.errors) == (0, "")
        cards += [match[0] for match in CARD.finditer(done.output)]
    assert len(cards) == 2
    assert cards[0] == cards[1] == bought(service)


async def test_the_quickstart_survives_a_killed_server(project: str, tmp_path: Path) -> None:
    """SIGKILL in the middle of its stream and a new start: the card arrives, and nothing is lost or shown twice."""
    async with RealService(tmp_path / "service", step_seconds=3.0) as service:
        words = quickstart(project, tmp_path, service.target)
        async with running(*words, errors=tmp_path / "errors") as program:
            seen = ""
            while "PROCESSING" not in seen:
                line = await program.line()
                assert line, (tmp_path / "errors").read_text()
                seen += f"{line}\n"
            await service.kill()
            await service.start_again()
            done = await asyncio.wait_for(program.finished(), 60)
        assert (done.code, done.errors) == (0, "")
        shown = seen + done.output
        versions = [int(number) for number in VERSIONS.findall(shown)]
        assert versions == sorted(set(versions))
        assert [match[0] for match in CARD.finditer(shown)] == [bought(service)]


def bought(service: RealService) -> str:
    """The one card that the supplier sold, as the quickstart prints it."""
    (order,) = service.books("kasushou")
    assert order["requests"] == 1
    (card,) = order["delivered"]
    return f"{card['card_no']} {card['card_password']}"


def test_nothing_of_this_machine_is_published(published: Path) -> None:
    """No address of a registry and no path of a checkout stands in what consumers get."""
    listing = tool("git", "ls-files", "--cached", "--others", "--exclude-standard")
    for file in (published / "rewardservice-client-0.1.0.pom", *(JAVA / name for name in listing.splitlines())):
        text = file.read_text()
        assert str(ROOT) not in text, file
        assert not re.search(r"/maven2|<repositor|/root/|/home/", text), file


@pytest.mark.usefixtures("published")
async def test_the_start_page_makes_an_empty_folder_a_card_on_a_stream(service: RealService, tmp_path: Path) -> None:
    """With nothing typed but what stands there; what it installs for its reader goes where the package went before."""
    await follow("Java", service, tmp_path, MAVEN_OPTS=f"-Dmaven.repo.local={REPOSITORY}")
