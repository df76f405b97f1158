// What neither the kit nor the real server can see. Run by `npm test`.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { inspect } from "node:util";
import { RewardClient, stateName, yuan, yuanText } from "@rewardservice/client";
import { VERSION } from "../dist/esm/version.js";
import { discreet } from "../dist/esm/events.js";

const SECRET = "a-key-that-nobody-may-see";

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
