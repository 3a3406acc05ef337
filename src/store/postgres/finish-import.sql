-- What follows from imported messages, rooms and sessions. Runs with `search_path` set to the store's schema.

-- No client may resume across a message that is missing: one that should precede another in its room, or is a room's newest.
UPDATE meta SET damaged_up_to = greatest(
  damaged_up_to,
  (SELECT max(previous) FROM (
    SELECT prev, lag(id) OVER (PARTITION BY room ORDER BY id) AS previous FROM messages
  ) AS each WHERE previous <> prev),
  (SELECT max(newest) FROM rooms CROSS JOIN LATERAL (
    SELECT id AS newest FROM messages WHERE messages.room = rooms.room ORDER BY id DESC LIMIT 1
  ) AS stored WHERE newest < last_id)
);

CREATE TABLE imported AS
SELECT room, max(last_id) AS last_id, max(last_message_id) AS last_message_id FROM (
  SELECT room, last_id, NULL AS last_message_id FROM rooms
  UNION ALL
  SELECT room, max(id), max(id) FILTER (WHERE kind NOT IN ('m', 'a')) FROM messages GROUP BY room
) AS either GROUP BY room;
DELETE FROM rooms;
INSERT INTO rooms SELECT * FROM imported;
DROP TABLE imported;

-- An export has each once.
DELETE FROM sessions USING sessions AS newer
WHERE newer.client = sessions.client AND newer.session = sessions.session AND newer.seq > sessions.seq;

-- Later ids follow all imported ones.
UPDATE meta SET epoch = greatest(
  origin, damaged_up_to, (SELECT max(id) FROM messages), (SELECT max(last_id) FROM rooms), (SELECT max(id) FROM sessions)
);
DELETE FROM log;
INSERT INTO log SELECT epoch, epoch, '-', 0, now_ms() FROM meta;
