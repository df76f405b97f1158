-- Every statement of the SQLite store, named. A name stands between two dashes; what follows belongs to it.

-- create_schema --
-- The one table that no migration makes: the record of the migrations.
CREATE TABLE IF NOT EXISTS schema (
  number                INTEGER NOT NULL PRIMARY KEY,
  sha256                TEXT    NOT NULL,
  applied_at            INTEGER NOT NULL,
  oldest_program_schema INTEGER NOT NULL
) STRICT;

-- applied_migrations --
SELECT number, sha256, oldest_program_schema FROM schema ORDER BY number;

-- record_migration --
INSERT INTO schema (number, sha256, applied_at, oldest_program_schema) VALUES (?1, ?2, ?3, ?4);

-- set_epoch --
-- Only a database that has none yet gets one.
INSERT INTO meta (key, value) VALUES ('epoch', ?1) ON CONFLICT DO NOTHING;

-- epoch --
SELECT value FROM meta WHERE key = 'epoch';

-- new_epoch --
UPDATE meta SET value = ?1 WHERE key = 'epoch';

-- mark_moved --
-- When the store was moved to another engine, milliseconds.
INSERT INTO meta (key, value) VALUES ('moved', ?1) ON CONFLICT DO NOTHING;

-- moved --
SELECT value FROM meta WHERE key = 'moved';

-- create_order --
-- The position is looked up here and written to the head only if a row came back: the loser of a race for a
-- client_order_id leaves no gap. A known order_id under another client_order_id is a defect and fails loudly.
INSERT INTO orders (client_id, order_id, client_order_id, product_id, accounts, state, open, listed, created_at,
                    last_position, review_since, revision, body)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 1, ?8,
        coalesce((SELECT position FROM heads WHERE client_id = ?1), 0) + 1, ?9, ?10, ?11)
ON CONFLICT (client_id, client_order_id) DO NOTHING
RETURNING last_position;

-- save_order --
-- The revision is the fence. ?9 says whether the change is visible and so takes the next position.
UPDATE orders
SET accounts = ?3, state = ?4, open = ?5, revision = ?6, body = ?7, listed = max(listed, ?5, ?9), review_since = ?10,
    last_position = iif(?9, (SELECT position FROM heads WHERE client_id = ?1) + 1, last_position)
WHERE client_id = ?1 AND order_id = ?2 AND revision = ?8
RETURNING last_position;

-- advance_head --
INSERT INTO heads (client_id, position) VALUES (?1, ?2)
ON CONFLICT (client_id) DO UPDATE SET position = excluded.position
RETURNING pruned_through;

-- log_update --
INSERT INTO updates (client_id, position, order_id, version, at, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6);

-- put_purchase --
-- Saving an order hands over all its purchases; those that didn't move aren't written.
INSERT INTO purchases (number, account, client_id, order_id, state, open, watch_until)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
ON CONFLICT (number) DO UPDATE
SET state = excluded.state, open = excluded.open, watch_until = excluded.watch_until
WHERE state <> excluded.state OR open <> excluded.open OR watch_until <> excluded.watch_until;

-- add_card --
-- A place that is taken is a defect and fails: nothing is ever written over a card.
INSERT INTO cards (client_id, order_id, card_no, version, number, hidden, at, sealed)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8);

-- release_card --
-- Shown from now on: as of the version that releases it.
UPDATE cards SET hidden = 0, version = ?4, at = ?5
WHERE client_id = ?1 AND order_id = ?2 AND card_no = ?3 AND hidden = 1
RETURNING 1;

-- add_audit --
INSERT INTO audit (chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position,
                   cards, reason, hash)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14);

-- end_of_chain --
SELECT place, hash FROM audit WHERE chain = ?1 ORDER BY place DESC LIMIT 1;

-- audit --
SELECT entry_id, chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position, cards,
       reason, hash
FROM audit
WHERE entry_id < ?1 ORDER BY entry_id DESC LIMIT ?2;

-- decisions --
-- Only what people decided.
SELECT entry_id, chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position, cards,
       reason, hash
FROM audit
WHERE entry_id < ?1 AND what NOT IN ('read', 'stream', 'start', 'stop', 'erase') ORDER BY entry_id DESC LIMIT ?2;

-- audit_of_order --
SELECT entry_id, chain, place, at, by, what, account, client_id, order_id, number, first_position, last_position, cards,
       reason, hash
FROM audit
WHERE entry_id < ?1 AND order_id = ?3 AND order_id <> ''
  AND (?4 = 0 OR what NOT IN ('read', 'stream', 'start', 'stop', 'erase'))
ORDER BY entry_id DESC LIMIT ?2;

-- reviews --
SELECT body FROM orders
WHERE review_since > 0 AND (review_since, order_id) > (?1, ?2)
ORDER BY review_since, order_id LIMIT ?3;

-- put_hold --
INSERT INTO holds (account, at, by, reason) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (account) DO UPDATE SET at = excluded.at, by = excluded.by, reason = excluded.reason;

-- end_hold --
DELETE FROM holds WHERE account = ?1;

-- holds --
SELECT account, at, by, reason FROM holds WHERE account > ?1 ORDER BY account;

-- keep_answer --
INSERT INTO answers (client_id, order_id, number, at, source, sealed) VALUES (?1, ?2, ?3, ?4, ?5, ?6);

-- answers --
SELECT number, at, source, sealed, erased_at FROM answers WHERE client_id = ?1 AND order_id = ?2 ORDER BY answer_id LIMIT ?3;

-- orders_in_flight --
SELECT count(*) FROM orders WHERE client_id = ?1 AND open = 1;

-- spent --
-- What a client's orders of one day could cost at worst.
SELECT coalesce(sum(amount), 0) FROM spending WHERE client_id = ?1 AND day = ?2;

-- spend --
INSERT INTO spending (client_id, day, amount) VALUES (?1, ?2, ?3)
ON CONFLICT (client_id, day) DO UPDATE SET amount = amount + excluded.amount;

-- order --
SELECT body FROM orders WHERE client_id = ?1 AND order_id = ?2;

-- order_by_client_order_id --
SELECT body FROM orders WHERE client_id = ?1 AND client_order_id = ?2;

-- owner --
SELECT client_id FROM orders WHERE order_id = ?1;

-- order_and_head --
-- One statement sees one state of the database: the order and the head agree.
SELECT head.position, head.pruned_through, orders.body
FROM (SELECT ?1 AS client_id) AS asked
LEFT JOIN heads AS head ON head.client_id = asked.client_id
LEFT JOIN orders ON orders.client_id = asked.client_id AND orders.client_order_id = ?2;

-- known_order_ids --
SELECT order_id FROM orders WHERE client_id = ?1 AND order_id IN (SELECT value FROM json_each(?2));

-- newest_orders_end --
-- The last of the next ?3 orders: where one stretch of a search through them ends.
SELECT order_id FROM orders WHERE client_id = ?1 AND order_id < ?2
ORDER BY order_id DESC LIMIT 1 OFFSET ?3 - 1;

-- newest_orders --
-- One stretch of a search, newest first. An empty filter lets everything pass.
SELECT body FROM orders
WHERE client_id = ?1 AND order_id < ?2 AND order_id >= ?3
  AND (?4 = '[]' OR state IN (SELECT value FROM json_each(?4)))
  AND (?5 = '' OR product_id = ?5)
  AND (?6 = '' OR instr(accounts, char(10) || ?6 || char(10)) > 0)
  AND (?7 IS NULL OR created_at >= ?7)
  AND (?8 IS NULL OR created_at < ?8)
ORDER BY order_id DESC LIMIT ?9;

-- head --
SELECT position, pruned_through FROM heads WHERE client_id = ?1;

-- updates --
SELECT position, body FROM updates WHERE client_id = ?1 AND position > ?2 ORDER BY position LIMIT ?3;

-- snapshot_all --
SELECT body FROM orders
WHERE client_id = ?1 AND order_id > ?2 AND listed = 1 AND last_position <= ?3
ORDER BY order_id LIMIT ?4;

-- snapshot_some --
SELECT body FROM orders
WHERE client_id = ?1
  AND order_id IN (
    SELECT value FROM json_each(?5)
    UNION
    SELECT order_id FROM orders WHERE client_id = ?1 AND client_order_id IN (SELECT value FROM json_each(?6))
  )
  AND order_id > ?2 AND last_position <= ?3
ORDER BY order_id LIMIT ?4;

-- cards --
SELECT order_id, card_no, version, number, erased_at, sealed FROM cards
WHERE client_id = ?1 AND order_id IN (SELECT value FROM json_each(?2)) AND hidden = 0
ORDER BY order_id, card_no;

-- purchase --
SELECT client_id, order_id FROM purchases WHERE number = ?2 AND account = ?1;

-- open_purchases --
SELECT client_id, order_id, number, account, state, watch_until FROM purchases
WHERE open = 1 AND number > ?1 ORDER BY number LIMIT ?2;

-- open_order_counts --
SELECT state, count(*) FROM orders WHERE open = 1 GROUP BY state;

-- oldest --
-- What waits for a person has no state here.
SELECT state, count(*), min(created_at) FROM orders WHERE open = 1 GROUP BY state
UNION ALL
SELECT '', count(*), coalesce(min(review_since), 0) FROM orders WHERE review_since > 0;

-- keep_callback --
INSERT INTO callbacks (account, digest, number, order_id, at, sealed) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
ON CONFLICT (account, digest) DO NOTHING
RETURNING 1;

-- callbacks --
SELECT number, order_id, digest, at, sealed, erased_at FROM callbacks
WHERE account = ?1 AND (at, digest) < (?2, ?3)
ORDER BY at DESC, digest DESC LIMIT ?4;

-- unknown_callbacks --
SELECT number, order_id, digest, at, sealed, erased_at FROM callbacks
WHERE account = ?1 AND (at, digest) < (?2, ?3) AND order_id = ''
ORDER BY at DESC, digest DESC LIMIT ?4;

-- data_keys --
SELECT key_id, master_key_id, wrapped FROM data_keys WHERE client_id = ?1 ORDER BY place;

-- add_first_data_key --
INSERT INTO data_keys (client_id, place, key_id, master_key_id, wrapped) VALUES (?1, 1, ?2, ?3, ?4)
ON CONFLICT (client_id, place) DO NOTHING;

-- all_data_keys --
SELECT client_id, key_id, master_key_id, wrapped FROM data_keys WHERE client_id >= '' ORDER BY client_id, place;

-- rewrap --
UPDATE data_keys SET master_key_id = ?3, wrapped = ?4 WHERE key_id = ?1 AND wrapped = ?2 RETURNING 1;

-- add_data_key --
INSERT INTO data_keys (client_id, place, key_id, master_key_id, wrapped)
SELECT ?1, coalesce(max(place), 0) + 1, ?2, ?3, ?4 FROM data_keys WHERE client_id = ?1;

-- put_rotation --
INSERT INTO rotations (client_id, key_id, of_table, after, resealed, unopened, began_at, ended_at)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
ON CONFLICT (client_id) DO UPDATE
SET key_id = excluded.key_id, of_table = excluded.of_table, after = excluded.after, resealed = excluded.resealed,
    unopened = excluded.unopened, began_at = excluded.began_at, ended_at = excluded.ended_at;

-- rotation --
SELECT key_id, of_table, after, ended_at FROM rotations WHERE client_id = ?1;

-- rotations --
SELECT client_id, key_id, of_table, after, resealed, unopened, began_at, ended_at FROM rotations
WHERE client_id >= '' ORDER BY client_id;

-- erase_cards --
UPDATE cards SET sealed = x'', erased_at = ?2
WHERE (client_id, order_id, card_no) IN (
  SELECT old.client_id, old.order_id, old.card_no FROM cards AS old
  WHERE old.erased_at = 0 AND old.at < ?1
    AND NOT (old.hidden = 1 AND EXISTS (SELECT 1 FROM orders WHERE orders.client_id = old.client_id
                                        AND orders.order_id = old.order_id AND review_since > 0))
  ORDER BY old.at LIMIT ?3
)
RETURNING 1;

-- erase_answers --
UPDATE answers SET sealed = x'', erased_at = ?2
WHERE answer_id IN (
  SELECT old.answer_id FROM answers AS old
  WHERE old.erased_at = 0 AND old.at < ?1
    AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.client_id = old.client_id AND orders.order_id = old.order_id
                    AND review_since > 0)
  ORDER BY old.at LIMIT ?3
)
RETURNING 1;

-- erase_callbacks --
UPDATE callbacks SET sealed = x'', erased_at = ?2
WHERE (account, digest) IN (
  SELECT old.account, old.digest FROM callbacks AS old
  WHERE old.erased_at = 0 AND old.at < ?1
    AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.order_id = old.order_id AND review_since > 0)
  ORDER BY old.at LIMIT ?3
)
RETURNING 1;

-- add_secret --
INSERT INTO secrets (name, sealed) VALUES (?1, ?2) ON CONFLICT DO NOTHING;

-- secret --
SELECT sealed FROM secrets WHERE name = ?1;

-- token --
SELECT sealed, fetched_at, expires_at FROM tokens WHERE account = ?1;

-- save_token --
INSERT INTO tokens (account, sealed, fetched_at, expires_at) VALUES (?1, ?2, ?3, ?4)
ON CONFLICT (account) DO UPDATE
SET sealed = excluded.sealed, fetched_at = excluded.fetched_at, expires_at = excluded.expires_at;

-- oldest_updates --
SELECT position, at FROM updates WHERE client_id = ?1 ORDER BY position LIMIT ?2;

-- unlist_orders --
-- Settled orders whose last update is about to go leave the snapshot.
UPDATE orders SET listed = 0
WHERE client_id = ?1 AND open = 0 AND last_position <= ?2
  AND order_id IN (SELECT order_id FROM updates WHERE client_id = ?1 AND position <= ?2);

-- drop_updates --
DELETE FROM updates WHERE client_id = ?1 AND position <= ?2;

-- mark_pruned --
UPDATE heads SET pruned_through = ?2 WHERE client_id = ?1;
