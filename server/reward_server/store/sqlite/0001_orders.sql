-- oldest-program-schema: 1
--
-- Orders, the clients' logs, what was bought and what came of it.
--
-- `orders` and `updates` hold bodies of a kilobyte and more. A WITHOUT ROWID table keeps at most a quarter of a page of
-- a row in place and gives the rest pages of its own, so these two are ordinary tables; the narrow ones are their key.

-- Facts about this database: `epoch`, a random number that changes when the database is restored from a backup.
CREATE TABLE meta (
  key   TEXT NOT NULL PRIMARY KEY,
  value ANY  NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per order. `body` is the whole order; the columns beside it are there to be searched by.
CREATE TABLE orders (
  client_id       TEXT    NOT NULL,
  order_id        TEXT    NOT NULL,
  client_order_id TEXT    NOT NULL,
  product_id      TEXT    NOT NULL,
  -- The accounts of its purchases, each between line feeds.
  accounts        TEXT    NOT NULL,
  state           TEXT    NOT NULL,
  -- Whether the state isn't terminal.
  open            INTEGER NOT NULL CHECK (open IN (0, 1)),
  -- Whether a snapshot of all orders shows it: it is open, or its last update wasn't pruned yet.
  listed          INTEGER NOT NULL CHECK (listed >= open AND listed <= 1),
  created_at      INTEGER NOT NULL,
  -- The position of its last update in the client's log.
  last_position   INTEGER NOT NULL CHECK (last_position > 0),
  -- Since when a person should look at it, milliseconds; 0: nobody needs to.
  review_since    INTEGER NOT NULL CHECK (review_since >= 0),
  revision        INTEGER NOT NULL CHECK (revision > 0),
  body            BLOB    NOT NULL,
  PRIMARY KEY (client_id, order_id),
  UNIQUE (client_id, client_order_id)
) STRICT;

-- Operators name an order by its id alone.
CREATE UNIQUE INDEX orders_by_id ON orders (order_id);

-- Counting what is under way, and finding the oldest of it, must not cost more as the settled orders pile up.
CREATE INDEX orders_open ON orders (client_id, state, created_at) WHERE open = 1;

-- Nor must what waits for a person.
CREATE INDEX orders_in_review ON orders (review_since, order_id) WHERE review_since > 0;

-- Nor must a snapshot.
CREATE INDEX orders_listed ON orders (client_id, order_id) WHERE listed = 1;

-- The ends of every client's log. Its row is what the next position is counted from.
CREATE TABLE heads (
  client_id      TEXT    NOT NULL PRIMARY KEY,
  position       INTEGER NOT NULL,
  pruned_through INTEGER NOT NULL DEFAULT 0 CHECK (pruned_through <= position)
) STRICT, WITHOUT ROWID;

-- The logs. `body` is the whole order as of `version`; cards aren't in it.
CREATE TABLE updates (
  client_id TEXT    NOT NULL,
  position  INTEGER NOT NULL,
  order_id  TEXT    NOT NULL,
  version   INTEGER NOT NULL,
  -- When the version came to be, milliseconds.
  at        INTEGER NOT NULL,
  body      BLOB    NOT NULL,
  PRIMARY KEY (client_id, position)
) STRICT;

-- What the orders of each client could cost at worst, by the UTC day of their creation, counted from 1970; in 1/10,000
-- yuan.
CREATE TABLE spending (
  client_id TEXT    NOT NULL,
  day       INTEGER NOT NULL,
  amount    INTEGER NOT NULL CHECK (amount >= 0),
  PRIMARY KEY (client_id, day)
) STRICT, WITHOUT ROWID;

-- Cards, sealed.
CREATE TABLE cards (
  client_id TEXT    NOT NULL,
  order_id  TEXT    NOT NULL,
  card_no   INTEGER NOT NULL CHECK (card_no > 0),
  version   INTEGER NOT NULL,
  number    TEXT    NOT NULL,
  hidden    INTEGER NOT NULL CHECK (hidden IN (0, 1)),
  -- Since when its client has it, or since when it is here hidden, milliseconds.
  at        INTEGER NOT NULL,
  -- When `sealed` was emptied, milliseconds; 0: it wasn't.
  erased_at INTEGER NOT NULL DEFAULT 0,
  sealed    BLOB    NOT NULL,
  PRIMARY KEY (client_id, order_id, card_no)
) STRICT, WITHOUT ROWID;

-- What is old enough to be erased comes first.
CREATE INDEX cards_to_erase ON cards (at) WHERE erased_at = 0;

-- Which order a number at a supplier belongs to. Numbers are used once, over all accounts.
CREATE TABLE purchases (
  number      TEXT    NOT NULL PRIMARY KEY,
  account     TEXT    NOT NULL,
  client_id   TEXT    NOT NULL,
  order_id    TEXT    NOT NULL,
  state       TEXT    NOT NULL,
  -- Whether something is left to do, or to watch: until when, of a delivered one, says `watch_until`.
  open        INTEGER NOT NULL CHECK (open IN (0, 1)),
  watch_until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the engine takes up again at start.
CREATE INDEX purchases_open ON purchases (number) WHERE open = 1;

-- Suppliers' answers that weren't understood, sealed whole: a paid card may be inside.
CREATE TABLE answers (
  answer_id INTEGER PRIMARY KEY,
  client_id TEXT    NOT NULL,
  order_id  TEXT    NOT NULL,
  number    TEXT    NOT NULL,
  at        INTEGER NOT NULL,
  source    TEXT    NOT NULL,
  erased_at INTEGER NOT NULL DEFAULT 0,
  sealed    BLOB    NOT NULL
) STRICT;

CREATE INDEX answers_of_order ON answers (client_id, order_id);
CREATE INDEX answers_to_erase ON answers (at) WHERE erased_at = 0;

-- Verified callbacks, the same one once.
CREATE TABLE callbacks (
  account   TEXT    NOT NULL,
  digest    BLOB    NOT NULL,
  number    TEXT    NOT NULL,
  order_id  TEXT    NOT NULL,
  at        INTEGER NOT NULL,
  erased_at INTEGER NOT NULL DEFAULT 0,
  sealed    BLOB    NOT NULL,
  PRIMARY KEY (account, digest)
) STRICT, WITHOUT ROWID;

-- Operators read them newest first, and mostly those that are about none of our orders.
CREATE INDEX callbacks_by_time ON callbacks (account, at, digest);
CREATE INDEX callbacks_unknown ON callbacks (account, at, digest) WHERE order_id = '';
CREATE INDEX callbacks_to_erase ON callbacks (at) WHERE erased_at = 0;

-- Supplier accounts that operators paused.
CREATE TABLE holds (
  account TEXT    NOT NULL PRIMARY KEY,
  at      INTEGER NOT NULL,
  by      TEXT    NOT NULL,
  reason  TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

-- Who read cards, and what operators decided; only ever added to. The entries of a `chain`, one for each start of the
-- program, are counted by `place`, and each `hash` is over the entry and the hash before it.
CREATE TABLE audit (
  entry_id       INTEGER PRIMARY KEY,
  chain          TEXT    NOT NULL,
  place          INTEGER NOT NULL,
  at             INTEGER NOT NULL,
  by             TEXT    NOT NULL,
  what           TEXT    NOT NULL,
  account        TEXT    NOT NULL,
  client_id      TEXT    NOT NULL,
  order_id       TEXT    NOT NULL,
  number         TEXT    NOT NULL,
  first_position INTEGER NOT NULL,
  last_position  INTEGER NOT NULL,
  cards          INTEGER NOT NULL,
  reason         TEXT    NOT NULL,
  hash           BLOB    NOT NULL,
  UNIQUE (chain, place)
) STRICT;

-- What people decided is read apart from the many readings, and what became of one order at once.
CREATE INDEX audit_decisions ON audit (entry_id) WHERE what NOT IN ('read', 'stream', 'start', 'stop', 'erase');
CREATE INDEX audit_of_order ON audit (order_id, entry_id) WHERE order_id <> '';

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
  SELECT raise(ABORT, 'the audit is only ever added to');
END;

-- INSERT OR REPLACE deletes without asking the trigger below.
CREATE TRIGGER audit_is_not_replaced BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE entry_id = NEW.entry_id OR (chain = NEW.chain AND place = NEW.place)) BEGIN
  SELECT raise(ABORT, 'the audit is only ever added to');
END;

CREATE TRIGGER audit_is_not_cut BEFORE DELETE ON audit BEGIN
  SELECT raise(ABORT, 'the audit is only ever added to');
END;

-- The clients' data keys, wrapped; `place` counts a client's keys from 1.
CREATE TABLE data_keys (
  client_id     TEXT    NOT NULL,
  place         INTEGER NOT NULL,
  key_id        BLOB    NOT NULL UNIQUE,
  master_key_id TEXT    NOT NULL,
  wrapped       BLOB    NOT NULL,
  PRIMARY KEY (client_id, place)
) STRICT, WITHOUT ROWID;

-- Who got a new data key: how far what was sealed under former ones has been sealed again. `client_id` '' is the
-- service itself; `after` is the place of the last row of `of_table` that was looked at.
CREATE TABLE rotations (
  client_id TEXT    NOT NULL PRIMARY KEY,
  key_id    BLOB    NOT NULL,
  of_table  TEXT    NOT NULL,
  after     BLOB    NOT NULL,
  resealed  INTEGER NOT NULL,
  unopened  INTEGER NOT NULL,
  began_at  INTEGER NOT NULL,
  ended_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Secrets of the service itself.
CREATE TABLE secrets (
  name   TEXT NOT NULL PRIMARY KEY,
  sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The supplier accounts' access tokens.
CREATE TABLE tokens (
  account    TEXT    NOT NULL PRIMARY KEY,
  sealed     BLOB    NOT NULL,
  fetched_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
