// What neither the kit nor the real server can see. Run by `npm test`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { inspect } from "node:util";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Metadata, Server, ServerCredentials, status } from "@grpc/grpc-js";
import {
  GetProductResponseSchema,
  StreamOrderUpdatesRequestSchema,
  StreamOrderUpdatesResponseSchema,
} from "@rewardservice/client/v1";
import { RewardClient, stateName, yuan, yuanText } from "@rewardservice/client";
import { VERSION } from "../dist/esm/version.js";
import { discreet } from "../dist/esm/events.js";
import { credential } from "../dist/esm/key.js";

const SECRET = "a-key-that-nobody-may-see";
const NEVER = new AbortController().signal;

const heartbeat = (resumeToken) =>
  create(StreamOrderUpdatesResponseSchema, { message: { case: "heartbeat", value: { resumeToken } } });

/** A server that notes who calls; each stream shows some messages and ends as that of a token that is over. */
class Fake {
  keys = [];
  resumed = [];
  #server = new Server();

  static async start(t, streams = []) {
    const fake = new Fake();
    t.after(() => fake.#server.forceShutdown());
    const method = (name, responseStream, schema) => ({
      path: `/rewardservice.v1.${name}`,
      requestStream: false,
      responseStream,
      requestDeserialize: (bytes) => bytes,
      responseSerialize: (message) => Buffer.from(toBinary(schema, message)),
    });
    const service = {
      product: method("CatalogService/GetProduct", false, GetProductResponseSchema),
      updates: method("RewardService/StreamOrderUpdates", true, StreamOrderUpdatesResponseSchema),
    };
    const note = ({ metadata }) => fake.keys.push(...metadata.get("authorization"));
    fake.#server.addService(service, {
      product: (call, answer) => {
        note(call);
        answer(null, create(GetProductResponseSchema, {}));
      },
      updates: (call) => {
        note(call);
        fake.resumed.push(fromBinary(StreamOrderUpdatesRequestSchema, call.request).resumeToken);
        for (const message of streams.shift() ?? []) call.write(message);
        call.emit("error", { code: status.UNAUTHENTICATED, details: "the token is over", metadata: new Metadata() });
      },
    });
    const port = await new Promise((resolve, reject) => {
      const bound = (error, port) => (error ? reject(error) : resolve(port));
      fake.#server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), bound);
    });
    fake.target = `127.0.0.1:${port}`;
    return fake;
  }
}

test("nothing that prints a client prints its key", () => {
  const client = new RewardClient({ key: SECRET });
  for (const text of [inspect(client, { depth: null, showHidden: true }), String(client), JSON.stringify(client)]) {
    assert.doesNotMatch(text, new RegExp(SECRET));
  }
  client.close();
});

test("a key with odd characters is refused, and not repeated", () => {
  for (const odd of [`${SECRET}\n`, `${SECRET} `, `${SECRET}é`, `${SECRET}\0`]) {
    assert.throws(
      () => new RewardClient({ key: odd }),
      (error) => error instanceof TypeError && !inspect(error).includes(SECRET),
    );
  }
});

test("the development key is used on this machine only", () => {
  delete process.env.REWARDSERVICE_KEY;
  for (const target of ["127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1", "ipv4:127.0.0.2:1", "unix:/a"]) {
    new RewardClient({ target }).close();
  }
  for (const target of [
    "10.0.0.1:1",
    "rewards:1",
    "localhost.example:1",
    "127.0.0.1.example:1",
    "dns://127.0.0.1/a:1",
  ]) {
    assert.throws(() => new RewardClient({ target }), /no API key for/);
  }
});

test("half a client certificate is refused", () => {
  assert.throws(() => new RewardClient({ tls: { cert: "PEM" } }), /go together/);
});

test("a client with a certificate needs no key, and sends none, on this machine either", async () => {
  delete process.env.REWARDSERVICE_KEY;
  for (const target of ["rewards:1", "127.0.0.1:1"]) {
    assert.equal(await credential(target, undefined, true).ask(1000, NEVER), undefined);
    assert.equal(await credential(target, "some-key", true).ask(1000, NEVER), "some-key");
  }
  assert.equal(await credential("127.0.0.1:1", undefined, false).ask(1000, NEVER), "dev-key");
  assert.throws(() => credential("127.0.0.1:1", "", true), /no API key for/);
});

test("a key that is made by a function is asked for anew for each call", async (t) => {
  const server = await Fake.start(t);
  let made = 0;
  const client = new RewardClient({ target: server.target, key: async () => `token-${++made}` });
  await client.getProduct("a");
  await client.getProduct("b");
  client.close();
  assert.deepEqual(server.keys, ["Bearer token-1", "Bearer token-2"]);
});

test("what the function of the key does wrong is the caller's to see", async (t) => {
  const server = await Fake.start(t);
  const fails = async (key, expected) => {
    const client = new RewardClient({ target: server.target, key, timeoutMs: 100 });
    await assert.rejects(client.getProduct("a"), expected);
    client.close();
  };
  await fails(() => Promise.reject(new RangeError("no token today")), RangeError);
  await fails(
    () => `${SECRET}\n`,
    (error) => error instanceof TypeError && !inspect(error).includes(SECRET),
  );
  await fails(() => new Promise(() => {}), { code: "DEADLINE_EXCEEDED" });
  assert.deepEqual(server.keys, []);
});

test("a closed client no longer waits for its key", async () => {
  const client = new RewardClient({ target: "127.0.0.1:1", key: () => new Promise(() => {}) });
  const ends = [client.getProduct("a"), client.watch().next()].map((one) =>
    assert.rejects(one, { name: "ClosedError" }),
  );
  client.close();
  await Promise.all(ends);
});

test("a stream whose token ended goes on with another one, where it was", async (t) => {
  const server = await Fake.start(t, [[heartbeat("one")], [heartbeat("two")], [heartbeat("three")]]);
  let made = 0;
  const client = new RewardClient({ target: server.target, key: () => `token-${++made}` });
  const seen = [];
  for await (const event of client.watch({ resumeToken: "zero" })) {
    seen.push(event.resumeToken);
    if (seen.length === 3) break;
  }
  client.close();
  assert.deepEqual(seen, ["one", "two", "three"]);
  assert.deepEqual(server.keys, ["Bearer token-1", "Bearer token-2", "Bearer token-3"]);
  assert.deepEqual(server.resumed, ["zero", "one", "two"]);
});

test("a stream that is refused is tried once more if there is another token, and then the refusal is told", async (t) => {
  let made = 0;
  for (const [key, asked] of [
    ["the-same", 1],
    [() => "the-same", 1],
    [() => `token-${++made}`, 2],
  ]) {
    const server = await Fake.start(t, [[], [], []]);
    const client = new RewardClient({ target: server.target, key });
    await assert.rejects(client.watch().next(), { name: "RewardError", code: "UNAUTHENTICATED" });
    client.close();
    assert.equal(server.keys.length, asked);
  }
});

test("an amount of yuan is exact", () => {
  for (const text of ["98.50", "0.00", "-0.01", "-3.20", "0.000000001", "123456789012345.99"]) {
    assert.equal(yuanText(yuan(text)), text);
  }
  assert.equal(yuanText(yuan("7")), "7.00");
  assert.equal(yuanText(yuan("7.250")), "7.25");
  for (const wrong of [0.1, "", "1,5", "1e3", "0.0000000001", "NaN", "1".repeat(16), null]) {
    assert.throws(() => yuan(wrong), TypeError);
  }
});

test("an event is printed without the cards of its order", () => {
  const order = { orderId: "ID", version: 3n, state: 5, cards: [{ secret: SECRET }] };
  const event = discreet({ type: "update", order, resumeToken: "token" });
  assert.equal(
    inspect(event, { depth: null }),
    "{\n  type: 'update',\n  order: 'ID version 3 FULFILLED',\n  resumeToken: 'token'\n}",
  );
  assert.deepEqual(Object.keys(event), ["type", "order", "resumeToken"]);
});

test("a state that this client doesn't know has its number for a name", () => {
  assert.equal(stateName(5), "FULFILLED");
  assert.equal(stateName(99), "99");
});

test("the version that is sent is that of the package", () => {
  assert.equal(VERSION, JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")).version);
});
