-- Every statement of the PostgreSQL store, named. A name stands between two dashes; what follows belongs to it.

-- create_schema --
-- The one table that no migration makes: the record of the migrations.
CREATE TABLE IF NOT EXISTS schema (
  number                BIGINT NOT NULL PRIMARY KEY,
  sha256                TEXT   NOT NULL,
  applied_at            BIGINT NOT NULL,
  oldest_program_schema BIGINT NOT NULL
);

-- has_schema --
SELECT to_regclass('schema') IS NOT NULL;

-- lock_migrations --
-- Two that migrate at once take turns; the lock ends with the connection. The number is ours alone ("RWRD").
SELECT pg_advisory_lock(1381454404);

-- applied_migrations --
SELECT number, sha256, oldest_program_schema FROM schema ORDER BY number;

-- record_migration --
INSERT INTO schema (number, sha256, applied_at, oldest_program_schema) VALUES ($1, $2, $3, $4);

-- set_epoch --
-- Only a database that has none yet gets one.
INSERT INTO meta (key, value) VALUES ('epoch', $1) ON CONFLICT DO NOTHING;

-- new_epoch --
UPDATE meta SET value = $1 WHERE key = 'epoch';

-- facts --
-- `arriving`: the epoch of a store that is being moved here, `arrived`: of one that was.
SELECT key, value FROM meta;

-- set_fact --
INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value;

-- forget_fact --
DELETE FROM meta WHERE key = $1;

-- try_lock_arriving --
-- One store moves into a database at a time; the lock ends with the connection.
SELECT pg_try_advisory_lock(1381454405);

-- durability --
SELECT current_setting('fsync') = 'on', current_setting('full_page_writes') = 'on',
       current_setting('synchronous_commit');

-- join --
INSERT INTO replicas (owner, until) VALUES ($1, clock_timestamp() + $2);

-- renew --
-- A lease that was over stays over: others may have taken up the work.
UPDATE replicas SET until = clock_timestamp() + $2 WHERE owner = $1 AND until > clock_timestamp() AND NOT gone
RETURNING 1;

-- leave --
UPDATE replicas SET until = least(until, clock_timestamp()), gone = true WHERE owner = $1;

-- count_replicas --
SELECT count(*) FROM replicas WHERE until > clock_timestamp();

-- forget_replicas --
WITH forgotten AS (
  DELETE FROM replicas
  WHERE until < clock_timestamp() - interval '30 days'
    AND NOT EXISTS (SELECT 1 FROM purchases WHERE purchases.owner = replicas.owner AND open)
  RETURNING owner
)
DELETE FROM batches WHERE owner IN (SELECT owner FROM forgotten);

-- adopt --
-- Rows that somebody else takes up at this moment are left to them. $4: also what is ours already, since the answer to
-- a former adoption was lost.
WITH found AS (
  SELECT purchases.number, replicas.gone,
         (extract(epoch FROM clock_timestamp() - replicas.until) * 1000)::bigint AS age
  FROM replicas JOIN purchases ON purchases.owner = replicas.owner
  WHERE purchases.open AND purchases.number > $2
    AND (replicas.until <= clock_timestamp() OR ($4::bool AND replicas.owner = $1))
    AND EXISTS (SELECT 1 FROM replicas WHERE owner = $1 AND until > clock_timestamp())
  ORDER BY purchases.number LIMIT $3
  FOR UPDATE OF purchases SKIP LOCKED
)
UPDATE purchases SET owner = $1 FROM found WHERE purchases.number = found.number
RETURNING purchases.client_id, purchases.order_id, purchases.number, purchases.account, purchases.state,
          purchases.watch_until, CASE WHEN NOT found.gone AND found.age >= 0 THEN found.age END;

-- adopt_thoroughly --
-- The same for all whose process holds no lease, known or not.
WITH found AS (
  SELECT purchases.number, replicas.gone,
         (extract(epoch FROM clock_timestamp() - replicas.until) * 1000)::bigint AS age
  FROM purchases LEFT JOIN replicas ON replicas.owner = purchases.owner
  WHERE purchases.open AND purchases.number > $2
    AND (replicas.until IS NULL OR replicas.until <= clock_timestamp() OR ($4::bool AND replicas.owner = $1))
    AND EXISTS (SELECT 1 FROM replicas WHERE owner = $1 AND until > clock_timestamp())
  ORDER BY purchases.number LIMIT $3
  FOR UPDATE OF purchases SKIP LOCKED
)
UPDATE purchases SET owner = $1 FROM found WHERE purchases.number = found.number
RETURNING purchases.client_id, purchases.order_id, purchases.number, purchases.account, purchases.state,
          purchases.watch_until, CASE WHEN NOT found.gone AND found.age >= 0 THEN found.age END;

-- lock_head --
-- First of every write to a client's log.
SELECT position, pruned_through FROM heads WHERE client_id = $1 FOR UPDATE;

-- add_head --
INSERT INTO heads (client_id, position) VALUES ($1, 0) ON CONFLICT DO NOTHING;

-- last_batch --
-- Read under the lock: whatever was under way has ended by then.
SELECT batch FROM batches WHERE client_id = $1 AND owner = $2;

-- look_before --
-- What a batch of writes needs to know, read under the lock: which client_order_ids exist, at which revision the orders
-- stand that are to be changed, and whether this process's lease holds. What the client has used up: of its
-- money on the days $5, and with $6 its orders that haven't ended.
SELECT 'known', order_id, client_order_id, revision, body FROM orders
WHERE client_id = $1 AND client_order_id = ANY ($2::text[])
UNION ALL
SELECT 'stored', order_id, client_order_id, revision, NULL FROM orders
WHERE client_id = $1 AND order_id = ANY ($3::text[])
UNION ALL
SELECT 'lease', owner, '', 0, NULL FROM replicas WHERE owner = $4 AND until > clock_timestamp()
UNION ALL
SELECT 'spent', day::text, '', amount, NULL FROM spending WHERE client_id = $1 AND day = ANY ($5::bigint[])
UNION ALL
SELECT 'in_flight', '', '', count(*), NULL FROM orders WHERE client_id = $1 AND open AND $6::bool;

-- write --
-- A batch of one client's writes, decided before and stored at once. The counts that come back must be those of the
-- rows handed over; anything else is a defect.
WITH
head AS (
  UPDATE heads SET position = $2 WHERE client_id = $1 AND position <> $2
),
created AS (
  INSERT INTO orders (client_id, order_id, client_order_id, product_id, accounts, state, open, listed, created_at,
                      last_position, review_since, revision, body)
  SELECT $1, row.*
  FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bool[], $9::bool[], $10::bigint[],
              $11::bigint[], $12::bigint[], $13::bigint[], $14::bytea[]) AS row
  RETURNING 1
),
saved AS (
  UPDATE orders
  SET accounts = row.accounts, state = row.state, open = row.open, listed = orders.listed OR row.open OR row.position > 0,
      last_position = greatest(orders.last_position, row.position), review_since = row.review_since,
      revision = row.revision, body = row.body
  FROM unnest($15::text[], $16::bigint[], $17::text[], $18::text[], $19::bool[], $20::bigint[], $21::bigint[],
              $22::bigint[], $23::bytea[])
       AS row (order_id, expected, accounts, state, open, position, review_since, revision, body)
  WHERE orders.client_id = $1 AND orders.order_id = row.order_id AND orders.revision = row.expected
  RETURNING 1
),
logged AS (
  INSERT INTO updates (client_id, position, order_id, version, at, body)
  SELECT $1, row.* FROM unnest($24::bigint[], $25::text[], $26::bigint[], $27::bigint[], $28::bytea[]) AS row
),
bought AS (
  INSERT INTO purchases (number, account, client_id, order_id, state, open, watch_until, owner)
  SELECT row.number, row.account, $1, row.order_id, row.state, row.open, row.watch_until, row.owner
  FROM unnest($29::text[], $30::text[], $31::text[], $32::text[], $33::bool[], $34::bigint[], $35::text[])
       AS row (number, account, order_id, state, open, watch_until, owner)
  ON CONFLICT (number) DO UPDATE
  SET state = excluded.state, open = excluded.open, watch_until = excluded.watch_until, owner = excluded.owner
  WHERE (purchases.state, purchases.open, purchases.watch_until) IS DISTINCT FROM
        (excluded.state, excluded.open, excluded.watch_until) OR (excluded.open AND purchases.owner <> excluded.owner)
),
carded AS (
  INSERT INTO cards (client_id, order_id, card_no, version, number, hidden, sealed, at)
  SELECT $1, row.*
  FROM unnest($36::text[], $37::bigint[], $38::bigint[], $39::text[], $40::bool[], $41::bytea[], $61::bigint[]) AS row
),
released AS (
  UPDATE cards SET hidden = false, version = row.version, at = row.at
  FROM unnest($42::text[], $43::bigint[], $44::bigint[], $62::bigint[]) AS row (order_id, card_no, version, at)
  WHERE cards.client_id = $1 AND cards.order_id = row.order_id AND cards.card_no = row.card_no AND cards.hidden
  RETURNING 1
),
kept AS (
  INSERT INTO answers (client_id, order_id, number, at, source, sealed)
  SELECT $1, row.* FROM unnest($45::text[], $46::text[], $47::bigint[], $48::text[], $49::bytea[]) AS row
),
audited AS (
  INSERT INTO audit (chain, at, by, what, account, order_id, number, reason, client_id, first_position, last_position,
                     cards)
  SELECT $63, row.*, '', 0, 0, 0
  FROM unnest($50::bigint[], $51::text[], $52::text[], $53::text[], $54::text[], $55::text[], $56::text[]) AS row
),
marked AS (
  INSERT INTO batches (client_id, owner, batch) VALUES ($1, $57, $58)
  ON CONFLICT (client_id, owner) DO UPDATE SET batch = excluded.batch
),
spent AS (
  INSERT INTO spending (client_id, day, amount) SELECT $1, row.* FROM unnest($59::bigint[], $60::bigint[]) AS row
  ON CONFLICT (client_id, day) DO UPDATE SET amount = spending.amount + excluded.amount
)
SELECT (SELECT count(*) FROM created), (SELECT count(*) FROM saved), (SELECT count(*) FROM released);

-- notify --
SELECT pg_notify('reward_updates', $1);

-- positions --
-- Where the logs of some clients end.
SELECT client_id, position FROM heads WHERE client_id = ANY ($1::text[]);

-- order --
SELECT body FROM orders WHERE client_id = $1 AND order_id = $2;

-- owner --
SELECT client_id FROM orders WHERE order_id = $1;

-- order_and_head --
-- One statement sees one state of the database: the order and the head agree.
SELECT heads.position, heads.pruned_through, orders.body
FROM (SELECT $1::text COLLATE "C" AS client_id) AS asked
LEFT JOIN heads ON heads.client_id = asked.client_id
LEFT JOIN orders ON orders.client_id = asked.client_id AND orders.client_order_id = $2;

-- known_order_ids --
SELECT order_id FROM orders WHERE client_id = $1 AND order_id = ANY ($2::text[]);

-- newest_orders --
-- Newest first. An empty filter lets everything pass.
SELECT body FROM orders
WHERE client_id = $1 AND order_id < $2
  AND (cardinality($3::text[]) = 0 OR state = ANY ($3::text[]))
  AND ($4 = '' OR product_id = $4)
  AND ($5 = '' OR strpos(accounts, E'\n' || $5 || E'\n') > 0)
  AND ($6::bigint IS NULL OR created_at >= $6)
  AND ($7::bigint IS NULL OR created_at < $7)
ORDER BY order_id DESC LIMIT $8;

-- head --
SELECT position, pruned_through FROM heads WHERE client_id = $1;

-- updates --
SELECT position, body FROM updates WHERE client_id = $1 AND position > $2 ORDER BY position LIMIT $3;

-- snapshot_all --
SELECT body FROM orders
WHERE client_id = $1 AND order_id > $2 AND listed AND last_position <= $3
ORDER BY order_id LIMIT $4;

-- snapshot_some --
SELECT body FROM orders
WHERE client_id = $1 AND (order_id = ANY ($5::text[]) OR client_order_id = ANY ($6::text[]))
  AND order_id > $2 AND last_position <= $3
ORDER BY order_id LIMIT $4;

-- cards --
SELECT order_id, card_no, version, number, erased_at, sealed FROM cards
WHERE client_id = $1 AND order_id = ANY ($2::text[]) AND NOT hidden
ORDER BY order_id, card_no;

-- answers --
SELECT number, at, source, sealed, erased_at FROM answers WHERE client_id = $1 AND order_id = $2 ORDER BY answer_id LIMIT $3;

-- purchase --
SELECT client_id, order_id FROM purchases WHERE number = $2 AND account = $1;

-- open_order_counts --
SELECT state, count(*) FROM orders WHERE open GROUP BY state;

-- oldest --
-- What waits for a person has no state here.
SELECT state, count(*), min(created_at) FROM orders WHERE open GROUP BY state
UNION ALL
SELECT '', count(*), coalesce(min(review_since), 0) FROM orders WHERE review_since > 0;

-- reviews --
SELECT body FROM orders
WHERE review_since > 0 AND (review_since, order_id) > ($1, $2)
ORDER BY review_since, order_id LIMIT $3;

-- add_audit --
-- Place and hash come by themselves.
INSERT INTO audit (chain, at, by, what, account, client_id, order_id, number, first_position, last_position, cards,
                   reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12);

-- audit --
SELECT entry_id, chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position, cards,
       reason, hash
FROM audit
WHERE entry_id < $1 ORDER BY entry_id DESC LIMIT $2;

-- decisions --
-- Only what people decided.
SELECT entry_id, chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position, cards,
       reason, hash
FROM audit
WHERE entry_id < $1 AND what NOT IN ('read', 'stream', 'start', 'stop', 'erase') ORDER BY entry_id DESC LIMIT $2;

-- audit_of_order --
SELECT entry_id, chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position, cards,
       reason, hash
FROM audit
WHERE entry_id < $1 AND order_id = $3 AND order_id <> ''
  AND (NOT $4::bool OR what NOT IN ('read', 'stream', 'start', 'stop', 'erase'))
ORDER BY entry_id DESC LIMIT $2;

-- put_hold --
INSERT INTO holds (account, at, by, reason) VALUES ($1, $2, $3, $4)
ON CONFLICT (account) DO UPDATE SET at = excluded.at, by = excluded.by, reason = excluded.reason;

-- end_hold --
DELETE FROM holds WHERE account = $1;

-- holds --
SELECT account, at, by, reason FROM holds ORDER BY account;

-- keep_callback --
INSERT INTO callbacks (account, digest, number, order_id, at, sealed) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (account, digest) DO NOTHING
RETURNING 1;

-- callbacks --
SELECT number, order_id, digest, at, sealed, erased_at FROM callbacks
WHERE account = $1 AND (at, digest) < ($2, $3)
ORDER BY at DESC, digest DESC LIMIT $4;

-- unknown_callbacks --
SELECT number, order_id, digest, at, sealed, erased_at FROM callbacks
WHERE account = $1 AND (at, digest) < ($2, $3) AND order_id = ''
ORDER BY at DESC, digest DESC LIMIT $4;

-- data_keys --
SELECT key_id, master_key_id, wrapped FROM data_keys WHERE client_id = $1 ORDER BY place;

-- add_first_data_key --
INSERT INTO data_keys (client_id, place, key_id, master_key_id, wrapped) VALUES ($1, 1, $2, $3, $4)
ON CONFLICT (client_id, place) DO NOTHING;

-- all_data_keys --
SELECT client_id, key_id, master_key_id, wrapped FROM data_keys ORDER BY client_id, place;

-- rewrap --
UPDATE data_keys SET master_key_id = $3, wrapped = $4 WHERE key_id = $1 AND wrapped = $2 RETURNING 1;

-- lock_data_keys --
-- Two that rotate a client's key take turns until they are committed.
SELECT pg_advisory_xact_lock(1381454407, hashtext($1));

-- add_data_key --
INSERT INTO data_keys (client_id, place, key_id, master_key_id, wrapped)
SELECT $1, coalesce(max(place), 0) + 1, $2, $3, $4 FROM data_keys WHERE client_id = $1;

-- put_rotation --
INSERT INTO rotations (client_id, key_id, of_table, after, resealed, unopened, began_at, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (client_id) DO UPDATE
SET key_id = excluded.key_id, of_table = excluded.of_table, after = excluded.after, resealed = excluded.resealed,
    unopened = excluded.unopened, began_at = excluded.began_at, ended_at = excluded.ended_at;

-- lock_rotation --
SELECT key_id, of_table, after, ended_at FROM rotations WHERE client_id = $1 FOR UPDATE;

-- rotations --
SELECT client_id, key_id, of_table, after, resealed, unopened, began_at, ended_at FROM rotations ORDER BY client_id;

-- erase_cards --
-- Rows that somebody else is writing at this moment are left to the next round.
WITH old AS (
  SELECT client_id, order_id, card_no FROM cards
  WHERE erased_at = 0 AND at < $1
    AND NOT (hidden AND EXISTS (SELECT 1 FROM orders WHERE orders.client_id = cards.client_id
                                AND orders.order_id = cards.order_id AND review_since > 0))
  ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE cards SET sealed = '', erased_at = $2 FROM old
WHERE cards.client_id = old.client_id AND cards.order_id = old.order_id AND cards.card_no = old.card_no
RETURNING 1;

-- erase_answers --
WITH old AS (
  SELECT answer_id FROM answers
  WHERE erased_at = 0 AND at < $1
    AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.client_id = answers.client_id
                    AND orders.order_id = answers.order_id AND review_since > 0)
  ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE answers SET sealed = '', erased_at = $2 FROM old WHERE answers.answer_id = old.answer_id
RETURNING 1;

-- erase_callbacks --
WITH old AS (
  SELECT account, digest FROM callbacks
  WHERE erased_at = 0 AND at < $1
    AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.order_id = callbacks.order_id AND review_since > 0)
  ORDER BY at LIMIT $3 FOR UPDATE SKIP LOCKED
)
UPDATE callbacks SET sealed = '', erased_at = $2 FROM old
WHERE callbacks.account = old.account AND callbacks.digest = old.digest
RETURNING 1;

-- add_secret --
INSERT INTO secrets (name, sealed) VALUES ($1, $2) ON CONFLICT DO NOTHING;

-- secret --
SELECT sealed FROM secrets WHERE name = $1;

-- token --
SELECT sealed, fetched_at, expires_at FROM tokens WHERE account = $1;

-- save_token --
INSERT INTO tokens (account, sealed, fetched_at, expires_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (account) DO UPDATE
SET sealed = excluded.sealed, fetched_at = excluded.fetched_at, expires_at = excluded.expires_at;

-- oldest_updates --
SELECT position, at FROM updates WHERE client_id = $1 ORDER BY position LIMIT $2;

-- unlist_orders --
-- Settled orders whose last update is about to go leave the snapshot.
UPDATE orders SET listed = false
WHERE client_id = $1 AND NOT open AND last_position <= $2
  AND order_id IN (SELECT order_id FROM updates WHERE client_id = $1 AND position <= $2);

-- drop_updates --
DELETE FROM updates WHERE client_id = $1 AND position <= $2;

-- mark_pruned --
UPDATE heads SET pruned_through = $2 WHERE client_id = $1;
