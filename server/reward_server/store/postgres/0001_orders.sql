-- oldest-program-schema: 1
--
-- Orders, the clients' logs, what was bought and what came of it, and who works on it.
--
-- Ids and numbers are compared byte by byte (COLLATE "C"): pages go on in the order in which ids are made, whatever the
-- language of the database.

-- Facts about this database: `epoch`, a random number that changes when the database is restored from a backup.
CREATE TABLE meta (
  key   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  value BIGINT           NOT NULL
);

-- The processes that work here, each under a name that is used once. `until` is when its lease ends, by the clock of
-- the database; rows stay a while after it, so that what a process left is found by its name.
CREATE TABLE replicas (
  owner TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  until TIMESTAMPTZ      NOT NULL,
  -- It left by itself: nothing of it is under way any more.
  gone  BOOLEAN          NOT NULL DEFAULT false
);

-- One row per order. `body` is the whole order; the columns beside it are there to be searched by.
CREATE TABLE orders (
  client_id       TEXT COLLATE "C" NOT NULL,
  order_id        TEXT COLLATE "C" NOT NULL,
  client_order_id TEXT COLLATE "C" NOT NULL,
  product_id      TEXT COLLATE "C" NOT NULL,
  -- The accounts of its purchases, each between line feeds.
  accounts        TEXT COLLATE "C" NOT NULL,
  state           TEXT COLLATE "C" NOT NULL,
  -- Whether the state isn't terminal.
  open            BOOLEAN NOT NULL,
  -- Whether a snapshot of all orders shows it: it is open, or its last update wasn't pruned yet.
  listed          BOOLEAN NOT NULL CHECK (listed OR NOT open),
  created_at      BIGINT  NOT NULL,
  -- The position of its last update in the client's log.
  last_position   BIGINT  NOT NULL CHECK (last_position > 0),
  -- Since when a person should look at it, milliseconds; 0: nobody needs to.
  review_since    BIGINT  NOT NULL CHECK (review_since >= 0),
  revision        BIGINT  NOT NULL CHECK (revision > 0),
  body            BYTEA   NOT NULL,
  PRIMARY KEY (client_id, order_id),
  UNIQUE (client_id, client_order_id)
);

-- Operators name an order by its id alone.
CREATE UNIQUE INDEX orders_by_id ON orders (order_id);

-- Counting what is under way, and finding the oldest of it, must not cost more as the settled orders pile up.
CREATE INDEX orders_open ON orders (client_id, state, created_at) WHERE open;

-- Nor must what waits for a person.
CREATE INDEX orders_in_review ON orders (review_since, order_id) WHERE review_since > 0;

-- Nor must a snapshot.
CREATE INDEX orders_listed ON orders (client_id, order_id) WHERE listed;

-- The ends of every client's log. Whoever writes to a client's log locks its row first and holds it until the commit:
-- positions have no gap and rise in the order of commits, whichever process writes.
CREATE TABLE heads (
  client_id      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  position       BIGINT NOT NULL,
  pruned_through BIGINT NOT NULL DEFAULT 0 CHECK (pruned_through <= position)
) WITH (fillfactor = 50);

-- The last batch that a process committed to a client's log; it has one under way at a time. A process whose connection
-- ended while it waited for its commit finds here what became of it. (Asking after the transaction's id wouldn't do: a
-- server that crashed hands out ids again whose transactions it has lost.)
CREATE TABLE batches (
  client_id TEXT COLLATE "C" NOT NULL,
  owner     TEXT COLLATE "C" NOT NULL,
  batch     BIGINT NOT NULL,
  PRIMARY KEY (client_id, owner)
) WITH (fillfactor = 50);

-- The logs. `body` is the whole order as of `version`; cards aren't in it.
CREATE TABLE updates (
  client_id TEXT COLLATE "C" NOT NULL,
  position  BIGINT NOT NULL,
  order_id  TEXT COLLATE "C" NOT NULL,
  version   BIGINT NOT NULL,
  -- When the version came to be, milliseconds.
  at        BIGINT NOT NULL,
  body      BYTEA  NOT NULL,
  PRIMARY KEY (client_id, position)
);

-- What the orders of each client could cost at worst, by the UTC day of their creation, counted from 1970; in 1/10,000
-- yuan. Read and written under the lock on the client's head.
CREATE TABLE spending (
  client_id TEXT COLLATE "C" NOT NULL,
  day       BIGINT NOT NULL,
  amount    BIGINT NOT NULL CHECK (amount >= 0),
  PRIMARY KEY (client_id, day)
) WITH (fillfactor = 50);

-- Cards, sealed.
CREATE TABLE cards (
  client_id TEXT COLLATE "C" NOT NULL,
  order_id  TEXT COLLATE "C" NOT NULL,
  card_no   BIGINT  NOT NULL CHECK (card_no > 0),
  version   BIGINT  NOT NULL,
  number    TEXT COLLATE "C" NOT NULL,
  hidden    BOOLEAN NOT NULL,
  -- Since when its client has it, or since when it is here hidden, milliseconds.
  at        BIGINT  NOT NULL,
  -- When `sealed` was emptied, milliseconds; 0: it wasn't.
  erased_at BIGINT  NOT NULL DEFAULT 0,
  sealed    BYTEA   NOT NULL,
  PRIMARY KEY (client_id, order_id, card_no)
);

-- What is old enough to be erased comes first.
CREATE INDEX cards_to_erase ON cards (at) WHERE erased_at = 0;

-- Which order a number at a supplier belongs to. Numbers are used once, over all accounts.
CREATE TABLE purchases (
  number      TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  account     TEXT COLLATE "C" NOT NULL,
  client_id   TEXT COLLATE "C" NOT NULL,
  order_id    TEXT COLLATE "C" NOT NULL,
  state       TEXT COLLATE "C" NOT NULL,
  -- Whether something is left to do, or to watch: until when, of a delivered one, says `watch_until`.
  open        BOOLEAN NOT NULL,
  watch_until BIGINT  NOT NULL,
  -- The process that sends or follows it.
  owner       TEXT COLLATE "C" NOT NULL
);

-- What other processes take up when one dies.
CREATE INDEX purchases_open ON purchases (owner, number) WHERE open;

-- Suppliers' answers that weren't understood, sealed whole: a paid card may be inside.
CREATE TABLE answers (
  answer_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  client_id TEXT COLLATE "C" NOT NULL,
  order_id  TEXT COLLATE "C" NOT NULL,
  number    TEXT COLLATE "C" NOT NULL,
  at        BIGINT NOT NULL,
  source    TEXT COLLATE "C" NOT NULL,
  erased_at BIGINT NOT NULL DEFAULT 0,
  sealed    BYTEA  NOT NULL
);

CREATE INDEX answers_of_order ON answers (client_id, order_id, answer_id);
CREATE INDEX answers_to_erase ON answers (at) WHERE erased_at = 0;

-- Verified callbacks, the same one once.
CREATE TABLE callbacks (
  account   TEXT COLLATE "C" NOT NULL,
  digest    BYTEA  NOT NULL,
  number    TEXT COLLATE "C" NOT NULL,
  order_id  TEXT COLLATE "C" NOT NULL,
  at        BIGINT NOT NULL,
  erased_at BIGINT NOT NULL DEFAULT 0,
  sealed    BYTEA  NOT NULL,
  PRIMARY KEY (account, digest)
);

-- Operators read them newest first, and mostly those that are about none of our orders.
CREATE INDEX callbacks_by_time ON callbacks (account, at, digest);
CREATE INDEX callbacks_unknown ON callbacks (account, at, digest) WHERE order_id = '';
CREATE INDEX callbacks_to_erase ON callbacks (at) WHERE erased_at = 0;

-- Supplier accounts that operators paused.
CREATE TABLE holds (
  account TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  at      BIGINT NOT NULL,
  by      TEXT   NOT NULL,
  reason  TEXT   NOT NULL
);

-- Who read cards, and what operators decided; only ever added to. The entries of a `chain`, one for each start of a
-- process, are counted by `place`, and each `hash` is over the entry and the hash before it.
CREATE TABLE audit (
  entry_id       BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  chain          TEXT COLLATE "C" NOT NULL,
  place          BIGINT NOT NULL,
  at             BIGINT NOT NULL,
  by             TEXT   NOT NULL,
  what           TEXT COLLATE "C" NOT NULL,
  account        TEXT COLLATE "C" NOT NULL,
  client_id      TEXT COLLATE "C" NOT NULL,
  order_id       TEXT COLLATE "C" NOT NULL,
  number         TEXT COLLATE "C" NOT NULL,
  first_position BIGINT NOT NULL,
  last_position  BIGINT NOT NULL,
  cards          BIGINT NOT NULL,
  reason         TEXT   NOT NULL,
  hash           BYTEA  NOT NULL,
  UNIQUE (chain, place)
);

-- What people decided is read apart from the many readings, and what became of one order at once.
CREATE INDEX audit_decisions ON audit (entry_id) WHERE what NOT IN ('read', 'stream', 'start', 'stop', 'erase');
CREATE INDEX audit_of_order ON audit (order_id, entry_id) WHERE order_id <> '';

CREATE FUNCTION audit_text(value TEXT) RETURNS BYTEA LANGUAGE sql IMMUTABLE AS $$
  SELECT int4send(octet_length(convert_to(value, 'UTF8'))) || convert_to(value, 'UTF8')
$$;

-- Gives an entry its place and its hash, as the store of one process does by itself. Those of a chain take turns until
-- they are committed. An entry that was moved here has both.
CREATE FUNCTION audit_chained() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
  last RECORD;
BEGIN
  IF NEW.hash IS NOT NULL THEN
    RETURN NEW;
  END IF;
  PERFORM pg_advisory_xact_lock(1381454406, hashtext(NEW.chain));
  SELECT place, hash INTO last FROM audit WHERE chain = NEW.chain ORDER BY place DESC LIMIT 1;
  NEW.place := coalesce(last.place, 0) + 1;
  NEW.hash := sha256(
    coalesce(last.hash, decode(repeat('00', 32), 'hex'))
    || audit_text(NEW.chain) || int8send(NEW.place) || int8send(NEW.at) || audit_text(NEW."by") || audit_text(NEW.what)
    || audit_text(NEW.account) || audit_text(NEW.client_id) || audit_text(NEW.order_id) || audit_text(NEW.number)
    || int8send(NEW.first_position) || int8send(NEW.last_position) || int8send(NEW.cards) || audit_text(NEW.reason)
  );
  RETURN NEW;
END
$$;

CREATE FUNCTION audit_stays() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit is only ever added to';
END
$$;

CREATE TRIGGER audit_is_chained BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_chained();
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_stays();
CREATE TRIGGER audit_is_not_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_stays();

-- The clients' data keys, wrapped; `place` counts a client's keys from 1.
CREATE TABLE data_keys (
  client_id     TEXT COLLATE "C" NOT NULL,
  place         BIGINT NOT NULL,
  key_id        BYTEA  NOT NULL UNIQUE,
  master_key_id TEXT COLLATE "C" NOT NULL,
  wrapped       BYTEA  NOT NULL,
  PRIMARY KEY (client_id, place)
);

-- Who got a new data key: how far what was sealed under former ones has been sealed again. `client_id` '' is the
-- service itself; `after` is the place of the last row of `of_table` that was looked at.
CREATE TABLE rotations (
  client_id TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  key_id    BYTEA  NOT NULL,
  of_table  TEXT COLLATE "C" NOT NULL,
  after     BYTEA  NOT NULL,
  resealed  BIGINT NOT NULL,
  unopened  BIGINT NOT NULL,
  began_at  BIGINT NOT NULL,
  ended_at  BIGINT NOT NULL
);

-- Secrets of the service itself.
CREATE TABLE secrets (
  name   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  sealed BYTEA NOT NULL
);

-- The supplier accounts' access tokens.
CREATE TABLE tokens (
  account    TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  sealed     BYTEA  NOT NULL,
  fetched_at BIGINT NOT NULL,
  expires_at BIGINT NOT NULL
);
