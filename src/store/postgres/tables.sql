-- Version 1 of the tables, which README.md describes. Runs with `search_path` set to the store's schema.
--
-- An id `<milliseconds>-<sequence>` is one number: milliseconds * 10^16 + sequence.

CREATE TABLE version (version integer NOT NULL);
INSERT INTO version VALUES (1);

-- One row: the id at which this data began, the id before the first message of every room, and the id up to which no client
-- can resume, if a later message was lost before an import.
CREATE TABLE meta (epoch numeric NOT NULL, origin numeric NOT NULL, damaged_up_to numeric);

-- What the nodes follow: one record per batch. The messages and removals of a record are those between `prev` and `id`.
CREATE TABLE log (
  id numeric PRIMARY KEY,
  prev numeric NOT NULL,
  node text NOT NULL,
  batch bigint NOT NULL,
  time bigint NOT NULL,
  parts json,   -- arrays of presence ("p"), sessions ("s"), bans ("b") and removed nodes ("d")
  results json  -- of the batch's messages that are not stored: their number in the batch, and their result
);

-- kind: t text, n text with NUL characters (as UTF-8 in `data`), b bytes, x removed; of a removal: m of the message in
-- `text`, a of all messages of the sender before it.
CREATE TABLE messages (
  id numeric PRIMARY KEY,
  prev numeric NOT NULL,
  time bigint NOT NULL,
  room text COLLATE "C" NOT NULL,
  sender text COLLATE "C" NOT NULL,
  kind "char" NOT NULL,
  text text,
  data bytea
);
-- A room is read by conditions on (room, id) and in that order. With `room = name ORDER BY id`, Postgres may read all messages
-- by the index of their ids instead, and skip those of other rooms.
CREATE INDEX messages_by_room ON messages (room, id);

-- Of each room, session and node there is one row. Its number is in the primary key, although it changes with every batch:
-- so an index leads to the newest version at once. Otherwise every version that was written since would be looked at, while a
-- long transaction, such as that of pg_dump, keeps Postgres from removing them.
CREATE TABLE rooms (
  room text COLLATE "C",
  last_id numeric,
  last_message_id numeric,
  PRIMARY KEY (room, last_id)
);
CREATE INDEX rooms_by_last_message_id ON rooms (last_message_id);

CREATE TABLE sessions (
  client text COLLATE "C",
  session text COLLATE "C",
  seq bigint,
  id numeric NOT NULL,
  time bigint NOT NULL,
  PRIMARY KEY (client, session, seq)
);

CREATE TABLE batches (node text COLLATE "C", number bigint, PRIMARY KEY (node, number));

-- Apart, so that a heartbeat does not wait for an append.
CREATE TABLE nodes (node text COLLATE "C" PRIMARY KEY);
CREATE TABLE leases (node text COLLATE "C" PRIMARY KEY, until bigint NOT NULL) WITH (fillfactor = 50);

CREATE TABLE presence (
  room text COLLATE "C",
  node text COLLATE "C",
  client text COLLATE "C",
  connections integer NOT NULL,
  PRIMARY KEY (room, node, client)
) WITH (fillfactor = 70);
CREATE INDEX presence_by_node ON presence (node);

CREATE TABLE bans (
  client text COLLATE "C",
  rooms text COLLATE "C",
  until bigint NOT NULL,
  PRIMARY KEY (client, rooms)
);

-- The removals of all messages of a client whose messages still have their content, after `erased_up_to`.
CREATE TABLE erasures (
  id numeric PRIMARY KEY,
  room text COLLATE "C" NOT NULL,
  sender text COLLATE "C" NOT NULL,
  up_to numeric NOT NULL,
  erased_up_to numeric NOT NULL DEFAULT 0,
  erased bigint NOT NULL DEFAULT 0,
  step_time bigint NOT NULL
);

CREATE SEQUENCE fencing_tokens;

-- The first id, and the record that begins the log.
INSERT INTO meta (epoch, origin)
WITH first AS MATERIALIZED (
  SELECT floor(extract(epoch FROM clock_timestamp()) * 1000) * 1e16 + floor(random() * 1000)::integer AS id
)
SELECT id, id FROM first;
INSERT INTO log SELECT epoch, epoch, '-', 0, div(epoch, 1e16) FROM meta;
