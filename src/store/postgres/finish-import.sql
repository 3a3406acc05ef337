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

INSERT INTO rooms (room, last_id, last_message_id)
SELECT room, max(id), max(id) FILTER (WHERE kind NOT IN ('m', 'a')) FROM messages GROUP BY room
ON CONFLICT (room) DO UPDATE
SET last_id = greatest(rooms.last_id, excluded.last_id), last_message_id = excluded.last_message_id;

-- Later ids follow all imported ones.
UPDATE meta SET epoch = greatest(
  origin, damaged_up_to, (SELECT max(id) FROM messages), (SELECT max(last_id) FROM rooms), (SELECT max(id) FROM sessions)
);
DELETE FROM log;
INSERT INTO log SELECT epoch, epoch, '-', 0, now_ms() FROM meta;
