"""The TypeScript client, as it is published: packed, installed into an empty project, and tried from there."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio

from reward_client_kit import Verdict
from reward_client_kit.relay import Relay

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

SOURCE = CLIENTS / "typescript"
README = SOURCE / "README.md"
FOLDER = BUILD / "typescript"
TSC = SOURCE / "node_modules/.bin/tsc"
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def project() -> Path:
    """An empty project that the packed client is installed into, and nothing else but the types of Node.js."""
    need("node", "npm", "make")
    folder = FOLDER / "project"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for old in FOLDER.glob("*.tgz"):
        old.unlink()
    asyncio.run(command("npm", "ci", "--ignore-scripts", "--prefer-offline", folder=SOURCE))
    asyncio.run(command("npm", "pack", "--pack-destination", FOLDER, folder=SOURCE))
    (archive,) = FOLDER.glob("*.tgz")
    (folder / "package.json").write_text('{"name": "empty", "private": true}')
    types = json.loads((SOURCE / "package.json").read_text())["devDependencies"]["@types/node"]
    flags = ("--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund")
    asyncio.run(command("npm", "install", *flags, archive, f"@types/node@{types}", folder=folder))
    return folder


async def command(*words: str | Path, folder: Path) -> Finished:
    """A step that must succeed."""
    finished = await run(*words, errors=FOLDER / f"{Path(words[0]).name}.log", folder=folder, within=120)
    assert finished.code == 0, finished.output + finished.errors
    return finished


@pytest.fixture(scope="module")
def verdicts(project: Path) -> dict[str, Verdict]:
    client = project / "node_modules/@rewardservice/client/examples/kit-client.mjs"
    return asyncio.run(kit(["node", str(client)]))


@pytest.mark.parametrize("name", SCENARIO_NAMES)
def test_the_typescript_client_keeps_the_promise(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].complaints == (), verdicts[name].last_words


def quickstart(project: Path, target: str, *, product: str = "kasushou/card", name: str = "quickstart.mjs") -> Path:
    """The quickstart as the README prints it, in a project, for another port."""
    text = code_block(README, "js").replace(PRINTED_TARGET, target).replace("kasushou/card", product)
    program = project / name
    program.write_text(text)
    return program


def test_the_quickstart_is_short_and_the_same_in_the_readme_and_the_package(project: Path) -> None:
    printed = code_block(README, "js")
    packed = project / "node_modules/@rewardservice/client/examples/quickstart.mjs"
    assert printed == packed.read_text()
    assert len(printed.splitlines()) <= 30
    assert len(README.read_text().splitlines()) <= 120


def secrets(order: dict[str, Any]) -> list[str]:
    """Of the cards that Kasushou says it delivered."""
    return [card["card_password"] for card in order["cards"]]


async def test_the_quickstart_prints_the_card_and_again_the_same_one(
    project: Path, service: RealService, tmp_path: Path
) -> None:
    program = quickstart(project, service.target)
    first, second = [await run("node", program, errors=tmp_path / "errors") for _ in range(2)]
    (order,) = service.books("kasushou")
    assert (first.code, second.code) == (0, 0), first.errors + second.errors
    assert first.output.splitlines()[-1].startswith("card ")
    assert second.output.splitlines()[-1] == first.output.splitlines()[-1]
    assert secrets(order)[0] in first.output


async def test_a_server_killed_in_the_middle_of_the_quickstart_costs_nothing(project: Path, tmp_path: Path) -> None:
    async with RealService(tmp_path / "service", step_seconds=1.5) as service:
        program = quickstart(project, service.target)
        async with running("node", program, errors=tmp_path / "errors") as quick:
            states = [await quick.line()]
            await service.kill()
            await service.start_again()
            rest = await quick.finished()
        lines = [*states, *rest.output.splitlines()]
        assert rest.code == 0, rest.errors
        assert lines[-2] == "FULFILLED"
        assert lines[-1].startswith("card ")
        assert len(set(lines)) == len(lines)
        assert len(service.books("kasushou")) == 1


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealService]:
    """One service for the tests that don't mind what others order."""
    async with RealService(tmp_path_factory.mktemp("shared")) as one:
        yield one


in_one_loop = pytest.mark.asyncio(loop_scope="module")


async def script(project: Path, body: str, *, errors: Path, **environment: str) -> Any:
    """What a script over the installed client returns; the names at its top are there for it."""
    program = project / "script.mjs"
    program.write_text(
        dedent(
            """\
            import * as all from "@rewardservice/client";
            import { readFileSync } from "node:fs";
            const { RewardClient, RewardError, ClosedError, WaitTimeoutError, OrderView, phone } = all;
            const env = process.env;
            const failure = async (promise) => {
              try {
                await promise;
              } catch (error) {
                const { name, message } = error;
                return { ...error, name, message, isRewardError: error instanceof RewardError };
              }
              return "no failure";
            };
            const answer = await (async () => {
            """
        )
        + dedent(body)
        + "\n})();\nconsole.log(JSON.stringify(answer));\n"
    )
    finished = await run("node", program, errors=errors, environment=environment, within=30)
    assert finished.code == 0, finished.errors
    assert finished.errors == ""
    return json.loads(finished.output)


@in_one_loop
async def test_errors_are_typed(project: Path, shared: RealService, tmp_path: Path) -> None:
    answer = await script(
        project,
        """
        const client = new RewardClient({ target: env.TARGET });
        const stranger = new RewardClient({ target: env.TARGET, key: "nobody's-key" });
        const answer = {
          unknown: await failure(client.getProduct("nothing/here")),
          bad: await failure(client.createOrder({ productId: "kasushou/card", quantity: 0, clientOrderId: "a b" })),
          unnamed: await failure(client.createOrder({ productId: "nothing/here" })),
          stranger: await failure(stranger.getProduct("kasushou/card")),
          watching: await failure(stranger.watch().next()),
          both: await failure(client.getOrder({ orderId: "a", clientOrderId: "b" })),
        };
        client.close();
        stranger.close();
        return answer;
        """,
        errors=tmp_path / "errors",
        TARGET=shared.target,
    )
    unknown, bad, unnamed = answer["unknown"], answer["bad"], answer["unnamed"]
    assert unknown["isRewardError"]
    assert (unknown["code"], unknown["reason"]) == ("NOT_FOUND", "PRODUCT_NOT_FOUND")
    assert unknown["metadata"]["product_id"] == "nothing/here"
    assert unknown["requestId"] == unknown["metadata"]["request_id"] != ""
    assert (bad["code"], bad["reason"], bad["clientOrderId"]) == ("INVALID_ARGUMENT", "INVALID_REQUEST", "a b")
    assert {violation["field"] for violation in bad["violations"]} == {"client_order_id", "quantity"}
    assert len(unnamed["clientOrderId"]) == 36
    assert answer["stranger"]["code"] == answer["watching"]["code"] == "UNAUTHENTICATED"
    assert answer["both"]["name"] == "TypeError"


@in_one_loop
async def test_an_order_is_read_waited_for_listed_and_not_cancelled_any_more(
    project: Path, shared: RealService, tmp_path: Path
) -> None:
    answer = await script(
        project,
        """
        const client = new RewardClient({ target: env.TARGET });
        const wanted = { productId: "kasushou/card", clientOrderId: "mine", maxUnitPrice: "98.50" };
        const make = () => client.createOrder(wanted);
        const { order, resumeToken } = await make();
        const again = await make();
        const ended = await client.waitFor({ clientOrderId: "mine" }, { timeoutMs: 20_000 });
        const listed = [];
        for await (const { orderId } of client.listOrders({ states: [ended.state], pageSize: 1 })) listed.push(orderId);
        const kinds = new Set();
        for await (const { kind } of client.products({ kind: all.ProductKind.CARD, pageSize: 100 })) kinds.add(kind);
        const updates = await client.listOrderUpdates({ after: resumeToken, view: OrderView.BASIC });
        const masked = await client.getOrder({ orderId: order.orderId });
        const watched = [];
        for await (const event of client.watch({ orderIds: [order.orderId], untilTerminal: true })) {
          watched.push(event.order?.state ?? event.type);
        }
        const answer = {
          replayed: [again.replayed, again.order.orderId === order.orderId],
          secret: ended.cards[0].secret,
          masked: masked.cards[0].secret,
          watched,
          listed: listed.length === 1 && listed[0] === order.orderId,
          kinds: [...kinds],
          updated: updates.updates.at(-1).order.version === ended.version,
          cancel: await failure(client.cancelOrder({ orderId: order.orderId })),
        };
        client.close();
        return answer;
        """,
        errors=tmp_path / "errors",
        TARGET=shared.target,
    )
    assert answer["replayed"] == [True, True]
    assert [answer["secret"]] in [secrets(order) for order in shared.books("kasushou")]
    assert answer["masked"] == ""
    assert answer["watched"] == [5, "snapshotEnd"]
    assert answer["listed"]
    assert answer["kinds"] == [1]
    assert answer["updated"]
    assert answer["cancel"]["reason"] == "ORDER_NOT_CANCELLABLE"


@in_one_loop
async def test_the_caller_ends_what_it_began(project: Path, shared: RealService, tmp_path: Path) -> None:
    """By a signal, whose reason is thrown; by time-outs; by leaving the loop; by closing the client."""
    answer = await script(
        project,
        """
        const client = new RewardClient({ target: env.TARGET });
        const nobody = new RewardClient({ target: "127.0.0.1:1" });
        const stop = new AbortController();
        const seen = [];
        const watch = async (signal) => {
          for await (const event of client.watch({ clientOrderIds: ["to-come"] }, { signal })) {
            seen.push(event.type);
            stop.abort(new Error("enough"));
          }
        };
        const many = Array.from({ length: 50 }, () => client.getProduct("kasushou/card", { signal: stop.signal }));
        await Promise.all(many);
        const answer = {
          stopped: await failure(watch(stop.signal)),
          stoppedBefore: await failure(client.getProduct("kasushou/card", { signal: stop.signal })),
          waited: await failure(client.waitFor({ clientOrderId: "never-ordered" }, { timeoutMs: 100 })),
          gaveUp: await failure(nobody.watch({ giveUpAfterMs: 100 }).next()),
          seen,
        };
        for await (const event of client.watch()) break;
        const closing = failure((async () => {
          for await (const event of client.watch()) client.close();
        })());
        return { ...answer, closed: await closing, closedBefore: await failure(client.getProduct("kasushou/card")) };
        """,
        errors=tmp_path / "errors",
        TARGET=shared.target,
    )
    assert answer["stopped"]["message"] == answer["stoppedBefore"]["message"] == "enough"
    assert answer["seen"] == ["snapshotEnd"]
    assert answer["waited"]["name"] == "WaitTimeoutError"
    assert "never-ordered was never seen" in answer["waited"]["message"]
    assert answer["gaveUp"]["code"] == "UNAVAILABLE"
    assert answer["closed"]["name"] == answer["closedBefore"]["name"] == "ClosedError"


class Wire(Relay):
    """A wire to the service that resets the first so many connections."""

    def __init__(self, service: RealService, *, resets: int = 0) -> None:
        super().__init__(int(service.target.rpartition(":")[2]))
        self.resets = resets

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.is_down = self.resets > 0
        self.resets -= 1
        await super()._accept(reader, writer)


@in_one_loop
async def test_a_call_is_made_again_when_its_connection_is_reset(
    project: Path, shared: RealService, tmp_path: Path
) -> None:
    before = len(shared.books("kasushou"))
    async with Wire(shared, resets=2).running() as wire:
        answer = await script(
            project,
            """
            const client = new RewardClient({ target: env.TARGET, backoff: { initialMs: 100 } });
            const { order } = await client.createOrder({ productId: "kasushou/card" });
            await client.waitFor({ orderId: order.orderId });
            client.close();
            return order.productId;
            """,
            errors=tmp_path / "errors",
            TARGET=f"127.0.0.1:{wire.port}",
        )
    assert answer == "kasushou/card"
    assert len(shared.books("kasushou")) == before + 1


@in_one_loop
async def test_a_connection_that_was_taken_and_says_nothing_costs_one_call(
    project: Path, shared: RealService, tmp_path: Path
) -> None:
    """gRPC for Node.js waits for the first word of a connection for ever, and so would every call to come."""
    async with Wire(shared).running() as wire:
        wire.silence_next()
        answer = await script(
            project,
            """
            const client = new RewardClient({ target: env.TARGET });
            const first = await failure(client.getProduct("kasushou/card", { timeoutMs: 500 }));
            const { productId } = await client.getProduct("kasushou/card");
            client.close();
            return [first.code, productId];
            """,
            errors=tmp_path / "errors",
            TARGET=f"127.0.0.1:{wire.port}",
        )
    assert answer == ["DEADLINE_EXCEEDED", "kasushou/card"]


async def test_mutual_tls_beside_a_key(project: Path, tmp_path: Path) -> None:
    async with RealService(tmp_path / "service", tls=True) as service:
        assert service.tls is not None
        answer = await script(
            project,
            """
            const [ca, cert, key] = [env.CA, env.CERT, env.KEY].map((file) => readFileSync(file));
            const ask = async (tls) => {
              const client = new RewardClient({ target: env.TARGET, tls, timeoutMs: 1500, key: "dev-key" });
              try {
                return (await client.getProduct("kasushou/card")).productId;
              } catch (error) {
                return error.code;
              } finally {
                client.close();
              }
            };
            return await Promise.all([{ ca, cert, key }, { ca }, { cert, key }, false].map(ask));
            """,
            errors=tmp_path / "errors",
            TARGET=service.target,
            CA=str(service.tls.ca),
            CERT=str(service.tls.certificate),
            KEY=str(service.tls.key),
            # gRPC names the server by its address where it has no other name, and Node.js remarks on that.
            NODE_OPTIONS="--no-deprecation",
        )
    assert answer == ["kasushou/card", *["UNAVAILABLE"] * 3]


async def test_a_client_is_known_by_its_certificate_and_sends_no_key(project: Path, tmp_path: Path) -> None:
    async with RealService(tmp_path / "service", client_from_certificate=True) as service:
        assert service.tls is not None
        answer = await script(
            project,
            """
            const [ca, cert, key] = [env.CA, env.CERT, env.KEY].map((file) => readFileSync(file));
            const client = new RewardClient({ target: env.TARGET, tls: { ca, cert, key } });
            const { order } = await client.createOrder({ productId: "kasushou/card" });
            const { state } = await client.waitFor({ orderId: order.orderId });
            client.close();
            const stranger = new RewardClient({ target: env.TARGET, tls: { ca, cert, key }, key: "dev-key" });
            const refused = await failure(stranger.getProduct("kasushou/card"));
            stranger.close();
            return [all.stateName(state), refused.code];
            """,
            errors=tmp_path / "errors",
            TARGET=service.target,
            CA=str(service.tls.ca),
            CERT=str(service.tls.certificate),
            KEY=str(service.tls.key),
            REWARDSERVICE_KEY="",
            NODE_OPTIONS="--no-deprecation",
        )
    assert answer == ["FULFILLED", "UNAUTHENTICATED"]


USES = """
import { RewardClient, RewardError, type WatchEvent, OrderState } from "@rewardservice/client";
import { OperatorService, type Order, OrderSchema } from "@rewardservice/client/v1";

export const uses = async (signal: AbortSignal): Promise<bigint> => {
  const client = new RewardClient({ target: "127.0.0.1:50051", backoff: { initialMs: 200 }, tls: { ca: Buffer.of() } });
  const { order } = await client.createOrder({ productId: "kasushou/card", metadata: { a: "b" } }, { signal });
  const same: Order = await client.getOrder({ orderId: order.orderId });
  const show = (event: WatchEvent): string => ("order" in event ? event.order.orderId : event.type);
  const resumeToken: string | undefined = process.env["TOKEN"];
  for await (const event of client.watch({ orderIds: [same.orderId], resumeToken }, { signal })) show(event);
  const found = (error: unknown) => error instanceof RewardError && error.code === "NOT_FOUND";
  new RewardClient({ key: () => "token" });
  new RewardClient({ key: async () => "token" });
  // @ts-expect-error: one of the two ids, not both
  await client.getOrder({ orderId: "a", clientOrderId: "b" }).catch(found);
  return order.state === OrderState.FULFILLED ? same.version : BigInt(OperatorService.methods.length);
};
export const name: string = OrderSchema.typeName;
"""


async def test_typescript_understands_the_package_as_an_es_module_and_as_commonjs(project: Path) -> None:
    (project / "uses.mts").write_text(USES)
    (project / "uses.cts").write_text(USES)
    shutil.copy(quickstart(project, PRINTED_TARGET, name="typed.mjs"), project / "typed.mts")
    strict = ("--strict", "--noEmit", "--exactOptionalPropertyTypes", "--noUncheckedIndexedAccess")
    modules = ("--module", "nodenext", "--target", "es2022", "--types", "node")
    await command(TSC, *strict, *modules, "uses.mts", "uses.cts", "typed.mts", folder=project)


async def test_commonjs_can_require_it(project: Path) -> None:
    program = 'const { RewardClient, stateName } = require("@rewardservice/client"); new RewardClient(); '
    program += 'console.log(stateName(5), require("@rewardservice/client/v1").OrderSchema.typeName)'
    finished = await command("node", "--eval", program, folder=project)
    assert finished.output == "FULFILLED rewardservice.v1.Order\n"


async def test_the_unit_tests_pass_and_the_code_is_formatted(project: Path) -> None:
    await command("npm", "test", folder=SOURCE)
    await command("npx", "prettier", "--check", ".", folder=SOURCE)


def test_the_package_holds_what_it_needs_and_no_more(project: Path) -> None:
    installed = project / "node_modules/@rewardservice/client"
    top = {path.name for path in installed.iterdir()} - {"node_modules"}
    assert top == {"LICENSE", "README.md", "dist", "examples", "package.json"}
    assert (installed / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    lock = (SOURCE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
