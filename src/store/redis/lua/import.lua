-- Writes entries of an import. Further arguments: messages per room at most; then for each entry
-- 'm', room, id, the id before it in its room, client, content, time,
-- 'r', room, id of its newest message, which is not stored, its milliseconds, or
-- 's', client and session, seq and id, time.
local max_messages, changed, i = ARGV[3], {}, 4
while i <= #ARGV do
  local kind, name = ARGV[i], ARGV[i + 1]
  if kind == 's' then
    redis.call('HSET', P .. 'sessions', name, ARGV[i + 2])
    redis.call('ZADD', P .. 'sessions:used', ARGV[i + 3], name)
    i = i + 4
  else
    local id, key, head = ARGV[i + 2], P .. 'room:' .. name, redis.call('HGET', P .. 'heads', name)
    local time = ARGV[kind == 'm' and i + 6 or i + 3]
    redis.call('ZADD', P .. 'rooms', time, name)
    -- What is before a gap is left out, because no client may resume across it.
    if kind == 'r' or (head and head ~= ARGV[i + 3]) then redis.call('DEL', key) redis.call('HDEL', P .. 'removals', name) end
    if kind == 'm' then
      append_to_room(name, id, ARGV[i + 3], ARGV[i + 4], ARGV[i + 5], time, max_messages)
    end
    if not redis.call('ZSCORE', P .. 'rooms:oldest', name) then redis.call('ZADD', P .. 'rooms:oldest', time, name) end
    redis.call('HSET', P .. 'heads', name, id)
    changed[name] = true
    i = i + (kind == 'm' and 7 or 4)
  end
end
for room in pairs(changed) do update_room_bytes(room) end
return 1
