-- What the servers call. Runs after every change of the tables, with `search_path` set to the store's schema, which the
-- functions remember.

-- The messages as readers see them, also as a JSON array.
CREATE OR REPLACE VIEW entries AS
  SELECT id, prev, time, room, sender, visible.kind, visible.text, visible.data,
    json_build_array(
      id::text, prev::text, time, room, sender, visible.kind, visible.text, encode(visible.data, 'base64')
    ) AS json
  FROM messages
  CROSS JOIN LATERAL (
    SELECT messages.kind NOT IN ('m', 'a') AND EXISTS (
      SELECT FROM erasures
      WHERE erasures.room = messages.room AND erasures.sender = messages.sender AND messages.id <= erasures.up_to
    ) AS is_erased
    OFFSET 0 -- evaluated once
  ) AS erasure
  CROSS JOIN LATERAL (
    SELECT CASE WHEN is_erased THEN 'x' ELSE messages.kind END AS kind,
      CASE WHEN NOT is_erased THEN messages.text END AS text,
      CASE WHEN NOT is_erased THEN messages.data END AS data
  ) AS visible;

CREATE OR REPLACE FUNCTION entry_bytes(entry entries) RETURNS integer LANGUAGE sql IMMUTABLE AS $$
  SELECT 100 + coalesce(octet_length(entry.text), 0) + coalesce(octet_length(entry.data), 0)
$$;

-- Unix time in milliseconds.
CREATE OR REPLACE FUNCTION now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
  SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

CREATE OR REPLACE FUNCTION log_head() RETURNS numeric LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN (
    SELECT id FROM log ORDER BY id DESC LIMIT 1
  );
END $$;

-- Part of every query, because a newer version may change the schema while a server runs. `known` is what the server knows.
CREATE OR REPLACE FUNCTION check_version(known integer) RETURNS void LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  IF (SELECT version FROM version) > known THEN
    RAISE EXCEPTION 'its tables were written by a newer version of Hubbub. Start that version, or choose another ?schema=.';
  END IF;
END $$;

-- What begins a write: the order of the transactions that hold this lock is the order of the log. Returns its head.
-- A newer version may have changed the schema while this one waited, so the version is checked once the lock is held.
CREATE OR REPLACE FUNCTION lock_log(known integer) RETURNS numeric LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  -- Only then does the next statement see what was committed while this one waited.
  IF current_setting('transaction_isolation') <> 'read committed' THEN
    RAISE EXCEPTION 'transactions must be read committed';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('hubbub log of ' || current_schema(), 0));
  PERFORM check_version(known);
  RETURN (SELECT id FROM log ORDER BY id DESC LIMIT 1);
END $$;

-- An id greater than the given one. Sequences start at a random number, so that an id is hardly assigned again after a loss
-- of data. While ids are ahead of the clock, sequences grow with time instead.
CREATE OR REPLACE FUNCTION next_id(head numeric, now_ms bigint, first_sequence integer) RETURNS numeric LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN now_ms > div(head, 1e16) THEN now_ms * 1e16 + first_sequence
    ELSE greatest(head + 1, div(head, 1e16) * 1e16 + now_ms * 100) END
$$;

-- Commits a write, and wakes the nodes.
CREATE OR REPLACE FUNCTION write_record(
  id numeric, prev numeric, node text, batch bigint, now_ms bigint, parts json, results json
) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  INSERT INTO log VALUES (id, prev, node, batch, now_ms, parts, results);
  PERFORM pg_notify('hubbub ' || current_schema(), id::text);
END $$;

-- The id before the next message of a room.
CREATE OR REPLACE FUNCTION last_id_of(name text) RETURNS numeric LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN (
    SELECT coalesce(
      (SELECT last_id FROM rooms WHERE room = name ORDER BY last_id DESC LIMIT 1), (SELECT origin FROM meta)
    )
  );
END $$;

-- Writes a batch of a node as one record. `updates`: arrays as in log.parts; then the columns of its messages.
-- Returns 'written', 'written before' or 'unknown node'.
CREATE OR REPLACE FUNCTION append(
  known integer, writer text, number bigint, first_sequence integer, updates text, rooms text[], senders text[], sessions text[],
  seqs bigint[], required_seqs bigint[], kinds text[], contents text[]
) RETURNS text LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  head numeric := lock_log(known);
  now bigint := now_ms();
  next numeric := next_id(head, now, first_sequence);
  last_number bigint;
  message record;
  session_seqs bigint[];   -- the highest of each session of the batch so far, and its id
  session_ids numeric[];
  i integer;
  ids numeric[] := '{}';   -- of each message of the batch, if it is stored
  last_seqs bigint[] := '{}'; -- of each message's session, before the batch
  result json;
  results json[];
BEGIN
  SELECT batches.number INTO last_number FROM batches WHERE node = writer ORDER BY batches.number DESC LIMIT 1;
  IF append.number <= last_number THEN RETURN 'written before'; END IF;
  UPDATE batches SET number = append.number WHERE node = writer AND batches.number = last_number;
  IF NOT FOUND THEN RETURN 'unknown node'; END IF;

  FOR message IN
    SELECT place, session, new.seq, required_seq, stored.seq AS stored_seq, stored.id AS stored_id,
      dense_rank() OVER (ORDER BY sender, session)::integer AS session_index
    FROM unnest(senders, sessions, seqs, required_seqs) WITH ORDINALITY AS new (sender, session, seq, required_seq, place)
    LEFT JOIN (
      SELECT sender, session, latest.seq, latest.id
      FROM (SELECT DISTINCT sender, session FROM unnest(senders, sessions) AS new (sender, session)) AS each
      CROSS JOIN LATERAL (
        SELECT seq, id FROM sessions
        WHERE client = each.sender AND sessions.session = each.session ORDER BY seq DESC LIMIT 1
      ) AS latest
    ) AS stored USING (sender, session)
    ORDER BY place
  LOOP
    result := NULL;
    last_seqs[message.place] := message.stored_seq;
    IF message.session IS NOT NULL THEN
      i := message.session_index;
      IF session_seqs[i] IS NULL THEN
        session_seqs[i] := coalesce(message.stored_seq, 0);
        session_ids[i] := message.stored_id;
      END IF;
      IF session_ids[i] IS NOT NULL AND message.seq <= session_seqs[i] THEN
        result := json_build_array(
          message.place - 1, 'duplicate', message.seq,
          CASE WHEN message.seq = session_seqs[i] THEN session_ids[i]::text END
        );
      ELSIF session_seqs[i] < message.required_seq THEN
        result := json_build_array(message.place - 1, 'out_of_order');
      ELSE
        session_seqs[i] := message.seq;
        session_ids[i] := next;
      END IF;
    END IF;
    IF result IS NULL THEN
      ids[message.place] := next;
      next := next + 1;
    ELSE
      ids[message.place] := NULL;
      results := results || result;
    END IF;
  END LOOP;

  WITH stored AS MATERIALIZED (
    SELECT id, room, sender, session, seq, last_seq, kind, content
    FROM unnest(rooms, senders, sessions, seqs, last_seqs, kinds, contents, ids)
      AS new (room, sender, session, seq, last_seq, kind, content, id)
    WHERE id IS NOT NULL
  ), heads AS MATERIALIZED (
    SELECT room, newest, (
      SELECT last_id FROM rooms WHERE rooms.room = each.room ORDER BY last_id DESC LIMIT 1
    ) AS last_id
    FROM (SELECT room, max(id) AS newest FROM stored GROUP BY room) AS each
  ), inserted AS (
    INSERT INTO messages (id, prev, time, room, sender, kind, text, data)
    SELECT id, coalesce(lag(id) OVER (PARTITION BY room ORDER BY id), last_id, (SELECT origin FROM meta)), now, room, sender,
      kind::"char", CASE WHEN kind = 't' THEN content END, CASE WHEN kind <> 't' THEN decode(content, 'base64') END
    FROM stored JOIN heads USING (room)
  ), updated_rooms AS (
    UPDATE rooms SET last_id = newest, last_message_id = newest
    FROM heads WHERE rooms.room = heads.room AND rooms.last_id = heads.last_id
  ), new_rooms AS (
    INSERT INTO rooms (room, last_id, last_message_id) SELECT room, newest, newest FROM heads WHERE last_id IS NULL
  ), latest AS MATERIALIZED (
    SELECT DISTINCT ON (sender, session) sender, session, seq, last_seq, id FROM stored
    WHERE session IS NOT NULL ORDER BY sender, session, id DESC
  ), updated_sessions AS (
    UPDATE sessions SET seq = latest.seq, id = latest.id, time = now
    FROM latest WHERE client = sender AND sessions.session = latest.session AND sessions.seq = last_seq
    RETURNING client, sessions.session
  )
  INSERT INTO sessions (client, session, seq, id, time)
  -- New, or pruned meanwhile.
  SELECT sender, session, seq, id, now FROM latest
  WHERE NOT EXISTS (
    SELECT FROM updated_sessions WHERE client = sender AND updated_sessions.session = latest.session
  );

  IF updates IS NOT NULL THEN
    DELETE FROM presence USING json_array_elements(updates::json) AS part
    WHERE part->>0 = 'p' AND room = part->>1 AND node = writer AND client = part->>2;
    INSERT INTO presence (room, node, client, connections)
    SELECT part->>1, writer, part->>2, (part->>3)::integer FROM json_array_elements(updates::json) AS part
    WHERE part->>0 = 'p' AND part->>3 <> '0';
  END IF;
  PERFORM write_record(next, head, writer, number, now, updates::json, array_to_json(results));
  RETURN 'written';
END $$;

-- The records after an id, oldest first, with what they stored.
CREATE OR REPLACE FUNCTION read_log(after numeric, max_records integer)
RETURNS TABLE (id text, prev text, node text, batch bigint, parts json, results json, entries json)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT record.id::text, record.prev::text, record.node, record.batch, record.parts, record.results,
    (SELECT json_agg(entries.json ORDER BY entries.id) FROM entries
     WHERE entries.id > record.prev AND entries.id < record.id)
  FROM (SELECT * FROM log WHERE log.id > after ORDER BY log.id LIMIT max_records) AS record ORDER BY record.id;
END $$;

-- A room's entries before an id (or NULL), newest first, or after one, oldest first: the messages up to the limits, and the
-- removals among them. The entry that passes the limit of bytes is included.
CREATE OR REPLACE FUNCTION read_before(name text, before numeric, max_messages integer, max_bytes bigint) RETURNS SETOF entries
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  entry entries;
  count integer := 0;
  bytes bigint := 0;
BEGIN
  IF max_messages = 0 THEN RETURN; END IF;
  FOR entry IN
    SELECT * FROM entries WHERE (room, id) < (name, coalesce(before, 1e40)) AND room >= name ORDER BY room DESC, id DESC
  LOOP
    RETURN NEXT entry;
    bytes := bytes + entry_bytes(entry);
    IF entry.kind NOT IN ('m', 'a') THEN count := count + 1; END IF;
    EXIT WHEN count >= max_messages OR bytes > max_bytes;
  END LOOP;
END $$;

CREATE OR REPLACE FUNCTION read_after(name text, after numeric, max_messages integer, max_bytes bigint) RETURNS SETOF entries
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  entry entries;
  count integer := 0;
  bytes bigint := 0;
BEGIN
  FOR entry IN SELECT * FROM entries WHERE (room, id) > (name, after) AND room <= name ORDER BY room, id LOOP
    RETURN NEXT entry;
    bytes := bytes + entry_bytes(entry);
    IF entry.kind NOT IN ('m', 'a') THEN count := count + 1; END IF;
    EXIT WHEN count >= max_messages OR bytes > max_bytes;
  END LOOP;
END $$;

-- One snapshot of a room: the head of the log, the room's last id, its latest entries (newest first), and its presence on all
-- live nodes.
CREATE OR REPLACE FUNCTION open_room(name text, max_messages integer, max_bytes bigint)
RETURNS TABLE (head text, last_id text, entries json, presence json) LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT log_head()::text, last_id_of(name)::text,
    (SELECT json_agg(latest.json) FROM read_before(name, NULL, max_messages, max_bytes) AS latest),
    (SELECT json_agg(json_build_array(client, node, connections)) FROM presence JOIN leases USING (node)
     WHERE room = name AND until > now_ms());
END $$;

CREATE OR REPLACE FUNCTION page_before(name text, before numeric, max_messages integer, max_bytes bigint) RETURNS TABLE (entries json)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT json_agg(page.json) FROM read_before(name, before, max_messages, max_bytes) AS page;
END $$;

-- Whether no message is missing between the id and the page: the rule of "recovered".
CREATE OR REPLACE FUNCTION page_after(name text, after numeric, max_messages integer, max_bytes bigint)
RETURNS TABLE (is_resumable boolean, is_damaged boolean, entries json) LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT
    EXISTS (SELECT FROM messages WHERE room = name AND id = after)
      OR after = coalesce(
        (SELECT prev FROM messages WHERE (room, id) > (name, 0) AND room <= name ORDER BY room, id LIMIT 1), last_id_of(name)
      ),
    coalesce(after <= (SELECT damaged_up_to FROM meta), false),
    (SELECT json_agg(page.json) FROM read_after(name, after, max_messages, max_bytes) AS page);
END $$;

CREATE OR REPLACE FUNCTION id_before_latest(name text, max_messages integer, max_bytes bigint) RETURNS TABLE (id text)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT coalesce(
    (SELECT prev FROM read_before(name, NULL, max_messages, max_bytes) AS latest ORDER BY latest.id LIMIT 1), last_id_of(name)
  )::text;
END $$;

-- The rooms with messages, that of the latest first: name, id and time of that message. NULL if the room before them has none.
CREATE OR REPLACE FUNCTION list_rooms(after text, max_rooms integer) RETURNS TABLE (rooms json)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  before numeric := 1e40;
BEGIN
  IF after IS NOT NULL THEN
    SELECT messages.id INTO before FROM messages WHERE messages.id = (
      SELECT last_message_id FROM rooms AS listed WHERE listed.room = after ORDER BY last_id DESC LIMIT 1
    );
  END IF;
  RETURN QUERY SELECT CASE WHEN before IS NOT NULL THEN (
    SELECT coalesce(json_agg(json_build_array(room, id::text, time) ORDER BY id DESC), '[]') FROM (
      SELECT latest.room, latest.id, latest.time FROM rooms AS listed
      -- With the offset, the messages of other rooms in between are not read.
      CROSS JOIN LATERAL (SELECT * FROM messages WHERE messages.id = last_message_id OFFSET 0) AS latest
      WHERE last_message_id < before ORDER BY last_message_id DESC LIMIT max_rooms
    ) AS latest
  ) END;
END $$;

CREATE OR REPLACE FUNCTION last_seq(name text, its_session text) RETURNS TABLE (seq bigint)
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  RETURN QUERY
  SELECT seq FROM sessions WHERE client = name AND session = its_session ORDER BY seq DESC LIMIT 1;
END $$;

-- Microseconds of the clock, unless that went back. Not synced to disk, because the clock goes on after a crash.
CREATE OR REPLACE FUNCTION next_fencing_token() RETURNS TABLE (token bigint) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('hubbub fencing tokens of ' || current_schema(), 0));
  RETURN QUERY SELECT setval('fencing_tokens',
    greatest((SELECT last_value + 1 FROM fencing_tokens), floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint));
END $$;

CREATE OR REPLACE FUNCTION join_node(name text, lease_ms integer) RETURNS TABLE (head text, epoch text)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  IF NOT pg_try_advisory_xact_lock_shared(hashtextextended('hubbub import of ' || current_schema(), 0)) THEN
    RAISE EXCEPTION 'an import is running. Start again when it has ended.';
  END IF;
  INSERT INTO nodes VALUES (name);
  INSERT INTO batches VALUES (name, 0);
  INSERT INTO leases VALUES (name, now_ms() + lease_ms);
  RETURN QUERY SELECT log_head()::text, meta.epoch::text FROM meta;
END $$;

-- Renews a lease, and sends a notification by which the node finds out whether it receives any.
CREATE OR REPLACE FUNCTION heartbeat(name text, lease_ms integer, token text)
RETURNS TABLE (is_known boolean, was_alive boolean, head text, epoch text, expired json, now bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  now bigint := now_ms();
  is_known boolean := EXISTS (SELECT FROM nodes WHERE node = name);
  was_alive boolean := EXISTS (SELECT FROM leases WHERE node = name AND until > now);
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true); -- a lease that is lost in a crash is renewed
  IF is_known THEN
    INSERT INTO leases VALUES (name, now + lease_ms) ON CONFLICT (node) DO UPDATE SET until = excluded.until;
  END IF;
  PERFORM pg_notify('hubbub ' || current_schema(), token);
  RETURN QUERY SELECT is_known, was_alive, log_head()::text, meta.epoch::text, (
    SELECT json_agg(node) FROM nodes WHERE NOT EXISTS (SELECT FROM leases WHERE leases.node = nodes.node AND until > now)
  ), now FROM meta;
END $$;

CREATE OR REPLACE FUNCTION leave(name text) RETURNS void LANGUAGE sql SET search_path FROM CURRENT AS $$
  DELETE FROM leases WHERE node = name
$$;

-- Removes a node whose lease has expired, by a record that all nodes read. Returns false if it has a lease, or was removed before.
CREATE OR REPLACE FUNCTION remove_node(known integer, name text, first_sequence integer) RETURNS boolean
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  head numeric := lock_log(known);
  now bigint := now_ms();
BEGIN
  IF EXISTS (SELECT FROM leases WHERE node = name AND until > now) THEN RETURN false; END IF;
  DELETE FROM nodes WHERE node = name;
  IF NOT FOUND THEN RETURN false; END IF;
  DELETE FROM batches WHERE node = name;
  DELETE FROM leases WHERE node = name;
  DELETE FROM presence WHERE node = name;
  PERFORM write_record(
    next_id(head, now, first_sequence), head, '-', 0, now, json_build_array(json_build_array('d', name)), NULL
  );
  RETURN true;
END $$;

CREATE OR REPLACE FUNCTION ban(known integer, name text, patterns text, until_ms bigint, first_sequence integer) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  head numeric := lock_log(known);
  now bigint := now_ms();
BEGIN
  IF until_ms = 0 THEN
    DELETE FROM bans WHERE client = name AND rooms = patterns;
  ELSE
    INSERT INTO bans VALUES (name, patterns, until_ms) ON CONFLICT (client, rooms) DO UPDATE SET until = excluded.until;
  END IF;
  PERFORM write_record(
    next_id(head, now, first_sequence), head, '-', 0, now, json_build_array(json_build_array('b', name, until_ms, patterns)), NULL
  );
END $$;

CREATE OR REPLACE FUNCTION read_bans() RETURNS TABLE (client text, rooms text, until bigint)
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
  SELECT client, rooms, until FROM bans
$$;

-- Adds a removal to a room, as a record that all nodes read. Returns its id.
CREATE OR REPLACE FUNCTION write_removal(head numeric, name text, sender text, kind "char", message text, first_sequence integer)
RETURNS numeric LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  now bigint := now_ms();
  removal numeric := next_id(head, now, first_sequence);
  last numeric := last_id_of(name);
BEGIN
  INSERT INTO messages VALUES (removal, last, now, name, sender, kind, message);
  UPDATE rooms SET last_id = removal WHERE room = name AND last_id = last;
  PERFORM write_record(removal + 1, head, '-', 0, now, NULL, NULL);
  RETURN removal;
END $$;

-- Removes one message, by its number and its id. Returns how many were removed; NULL if it is not stored.
CREATE OR REPLACE FUNCTION remove_message(known integer, name text, target numeric, target_id text, first_sequence integer) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  head numeric := lock_log(known);
  its_kind "char";
BEGIN
  SELECT kind INTO its_kind FROM entries WHERE id = target AND room = name AND kind NOT IN ('m', 'a');
  IF NOT FOUND THEN RETURN NULL; END IF;
  IF its_kind = 'x' THEN RETURN 0; END IF;
  UPDATE messages SET kind = 'x', text = NULL, data = NULL WHERE id = target;
  PERFORM write_removal(head, name, '-', 'm', target_id, first_sequence);
  RETURN 1;
END $$;

-- Whether a part of a room, after an id, has messages of a client to erase, and where that part ends: NULL at the room's end.
CREATE OR REPLACE FUNCTION find_erasable(name text, its_sender text, after numeric, max_scanned integer)
RETURNS TABLE (is_found boolean, up_to text) LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
  SELECT bool_or(sender = its_sender AND kind IN ('t', 'n', 'b')), max(id)::text
  FROM (
    SELECT * FROM entries WHERE (room, id) > (name, after) AND room <= name ORDER BY room, id LIMIT max_scanned
  ) AS part
$$;

-- Removes all messages of a client: for readers at once, and from the table by erase_step(). Returns the removal's id.
CREATE OR REPLACE FUNCTION begin_erasure(known integer, name text, its_sender text, first_sequence integer) RETURNS text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  head numeric := lock_log(known);
  last numeric := last_id_of(name);
  removal numeric := write_removal(head, name, its_sender, 'a', NULL, first_sequence);
BEGIN
  INSERT INTO erasures (id, room, sender, up_to, step_time) VALUES (removal, name, its_sender, last, now_ms());
  RETURN removal::text;
END $$;

-- The next step of an erasure. Returns how many messages were erased, once it is complete.
CREATE OR REPLACE FUNCTION erase_step(removal numeric, max_scanned integer, max_erased integer) RETURNS TABLE (is_complete boolean, count bigint)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  erasure erasures;
  scanned_up_to numeric;
  last_found numeric;
  found_count integer;
BEGIN
  SELECT * INTO erasure FROM erasures WHERE id = removal FOR UPDATE;
  IF NOT FOUND THEN
    RETURN QUERY SELECT true, 0::bigint;
    RETURN;
  END IF;
  WITH part AS MATERIALIZED (
    SELECT id, sender, kind FROM messages
    WHERE (room, id) > (erasure.room, erasure.erased_up_to) AND (room, id) <= (erasure.room, erasure.up_to)
    ORDER BY room, id LIMIT max_scanned
  ), found AS (
    SELECT id FROM part WHERE sender = erasure.sender AND kind IN ('t', 'n', 'b') ORDER BY id LIMIT max_erased
  ), erased AS (
    UPDATE messages SET kind = 'x', text = NULL, data = NULL FROM found WHERE messages.id = found.id
  )
  SELECT (SELECT max(id) FROM part), (SELECT max(id) FROM found), (SELECT count(*) FROM found)
  INTO scanned_up_to, last_found, found_count;
  erasure.erased := erasure.erased + found_count;
  IF scanned_up_to IS NULL THEN DELETE FROM erasures WHERE id = removal;
  ELSE
    UPDATE erasures SET erased = erasure.erased, step_time = now_ms(),
      erased_up_to = CASE WHEN found_count = max_erased THEN last_found ELSE scanned_up_to END
    WHERE id = removal;
  END IF;
  RETURN QUERY SELECT scanned_up_to IS NULL, erasure.erased;
END $$;

-- An erasure of a client's messages that is not complete.
CREATE OR REPLACE FUNCTION find_erasure(name text, its_sender text) RETURNS text LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
  SELECT id::text FROM erasures WHERE room = name AND sender = its_sender ORDER BY id LIMIT 1
$$;

-- Deletes a little of what is too old; one node at a time. Sessions are checked in turn, after the given one.
-- Returns how many messages were pruned, the last session that was checked, and an erasure that nobody has continued for some time.
CREATE OR REPLACE FUNCTION prune(
  message_ms bigint, session_ms bigint, log_ms bigint, erasure_ms bigint, max_rows integer, after_client text,
  after_session text
) RETURNS TABLE (pruned integer, client text, session text, erasure text) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  now bigint := now_ms();
  pruned integer := 0;
  last record;
  message record;
  seen integer := 0;
  expired numeric;
BEGIN
  IF NOT pg_try_advisory_xact_lock(hashtextextended('hubbub pruning of ' || current_schema(), 0)) THEN RETURN; END IF;
  -- Those that have ended stay for a day, during which a wrong clock can be set right.
  DELETE FROM bans WHERE until <= now - 24 * 60 * 60 * 1000;
  DELETE FROM leases WHERE until <= now AND NOT EXISTS (SELECT FROM nodes WHERE nodes.node = leases.node);
  DELETE FROM log WHERE id < log_head()
    AND id <= (SELECT max(id) FROM (SELECT id, time FROM log ORDER BY id LIMIT 20 * max_rows) AS oldest WHERE time < now - log_ms);

  -- A session that an append uses at the moment is skipped: waiting for it might be a deadlock.
  DELETE FROM sessions USING (
    SELECT old.client, old.session, old.seq FROM sessions AS old
    WHERE (old.client, old.session) > (after_client, after_session) ORDER BY old.client, old.session LIMIT max_rows
  ) AS part, LATERAL (
    SELECT FROM sessions AS old WHERE old.client = part.client AND old.session = part.session AND old.seq = part.seq
      AND old.time < now - session_ms
    FOR UPDATE SKIP LOCKED
  ) AS unused
  WHERE sessions.client = part.client AND sessions.session = part.session AND sessions.seq = part.seq;
  SELECT old.client, old.session INTO last FROM (
    SELECT old.client, old.session FROM sessions AS old
    WHERE (old.client, old.session) > (after_client, after_session) ORDER BY old.client, old.session LIMIT max_rows
  ) AS old ORDER BY old.client DESC, old.session DESC LIMIT 1;

  -- Only the first messages, because "recovered" relies on none missing in the middle. A time in the future, from a wrong
  -- clock, counts as the next message's.
  IF message_ms > 0 THEN
    FOR message IN SELECT id, time FROM messages ORDER BY id LIMIT 20 * max_rows LOOP
      seen := seen + 1;
      CONTINUE WHEN message.time > now;
      EXIT WHEN message.time > now - message_ms OR (expired IS NOT NULL AND seen > max_rows);
      expired := message.id;
    END LOOP;
    DELETE FROM messages WHERE id <= expired;
    GET DIAGNOSTICS pruned = ROW_COUNT;
  END IF;
  RETURN QUERY SELECT pruned, coalesce(last.client, ''), coalesce(last.session, ''),
    (SELECT id::text FROM erasures WHERE abs(now - step_time) > erasure_ms ORDER BY id LIMIT 1);
END $$;
