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

-- Counting what is under way must not cost more as the settled orders pile up.
CREATE INDEX orders_open ON orders (client_id, state) WHERE open;

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
  sealed    BYTEA   NOT NULL,
  PRIMARY KEY (client_id, order_id, card_no)
);

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
  sealed    BYTEA  NOT NULL
);

CREATE INDEX answers_of_order ON answers (client_id, order_id, answer_id);

-- Verified callbacks, the same one once.
CREATE TABLE callbacks (
  account  TEXT COLLATE "C" NOT NULL,
  digest   BYTEA  NOT NULL,
  number   TEXT COLLATE "C" NOT NULL,
  order_id TEXT COLLATE "C" NOT NULL,
  at       BIGINT NOT NULL,
  sealed   BYTEA  NOT NULL,
  PRIMARY KEY (account, digest)
);

-- Operators read them newest first, and mostly those that are about none of our orders.
CREATE INDEX callbacks_by_time ON callbacks (account, at, digest);
CREATE INDEX callbacks_unknown ON callbacks (account, at, digest) WHERE order_id = '';

-- Supplier accounts that operators paused.
CREATE TABLE holds (
  account TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  at      BIGINT NOT NULL,
  by      TEXT   NOT NULL,
  reason  TEXT   NOT NULL
);

-- What operators decided; only ever added to.
CREATE TABLE audit (
  entry_id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at       BIGINT NOT NULL,
  by       TEXT   NOT NULL,
  what     TEXT COLLATE "C" NOT NULL,
  account  TEXT COLLATE "C" NOT NULL,
  order_id TEXT COLLATE "C" NOT NULL,
  number   TEXT COLLATE "C" NOT NULL,
  reason   TEXT   NOT NULL
);

-- The clients' data keys, wrapped; `place` counts a client's keys from 1.
CREATE TABLE data_keys (
  client_id     TEXT COLLATE "C" NOT NULL,
  place         BIGINT NOT NULL,
  key_id        BYTEA  NOT NULL UNIQUE,
  master_key_id TEXT COLLATE "C" NOT NULL,
  wrapped       BYTEA  NOT NULL,
  PRIMARY KEY (client_id, place)
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
