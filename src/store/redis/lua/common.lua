-- Shared by all scripts; README.md has the keys and the rules for writing. P is the prefix of all keys.
local P = KEYS[1]

-- Of the keys and records: increased when an older version would misunderstand them. Every script refuses those of a newer
-- version, also on behalf of a server that was started before they were written. Keys without a version are of version 1.
local VERSION = 1
if tonumber(redis.call('HGET', P .. 'meta', 'version') or VERSION) > VERSION then
  return redis.error_reply('its keys were written by a newer version of Hubbub. Start that version, or choose another ?prefix=.')
end

local function format_id(ms, sequence) return string.format('%.0f-%.0f', ms, sequence) end

local function split_id(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end

-- Redis' clock, Unix time in milliseconds.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- An id greater than the given one. Sequences start at a random number, so that an id is hardly reused after data loss.
-- While ids are ahead of the clock, sequences grow with time instead.
local function next_id(id, sequence)
  local now, last_ms, last_sequence = clock(), split_id(id)
  if now > last_ms then return now, tonumber(sequence) end
  return last_ms, math.max(last_sequence + 1, now * 100)
end

local function following_id(id)
  local ms, sequence = split_id(id)
  return format_id(ms, sequence + 1)
end

local function previous_id(id)
  local ms, sequence = split_id(id)
  if sequence > 0 then return format_id(ms, sequence - 1) end
  return format_id(math.max(ms - 1, 0), 9007199254740991)
end

-- The last id in the log, which may be a foreign record's after our head.
local function last_id(head)
  local foreign = redis.call('XREVRANGE', P .. 'log', '+', following_id(head), 'COUNT', 1)[1]
  return foreign and foreign[1] or head
end

local function is_before(id, other)
  local ms, sequence = split_id(id)
  local other_ms, other_sequence = split_id(other)
  return ms < other_ms or (ms == other_ms and sequence < other_sequence)
end

-- An entry of a room's stream that is not ours.
local function is_foreign(entry) return entry[2][1] ~= 'p' or entry[2][7] ~= 't' end

-- The content of a removal: 'm' and the id of a message, or 'a' for all messages of the client before it. REMOVED is that of
-- a removed message.
local REMOVED = 'x'
local function is_removal(content)
  local kind = string.sub(content, 1, 1)
  return kind == 'm' or kind == 'a'
end

-- Whether a removal removes a message.
local function removes(removal_id, from, content, message_id, message_from)
  if content == 'a' then return message_from == from and is_before(message_id, removal_id) end
  return string.sub(content, 2) == message_id
end

-- Calls a function with each entry of a room's stream, oldest first; foreign ones are skipped.
local function each_entry(key, visit)
  local from = '-'
  while true do
    local entries = redis.call('XRANGE', key, from, '+', 'COUNT', 50)
    if #entries == 0 then return end
    for _, entry in ipairs(entries) do
      if not is_foreign(entry) then visit(entry[1], entry[2]) end
      from = following_id(entry[1])
    end
  end
end

-- Removals are not counted by the maximum of messages.
local function count_removals(room, count)
  if count > 0 then redis.call('HSET', P .. 'removals', room, count)
  else redis.call('HDEL', P .. 'removals', room) end
end

-- Entries of a stream cannot be edited, so the room is written anew, and replaced by one command. Idempotent.
local function erase(room, removal_id, from, content)
  local key, copy, removals = P .. 'room:' .. room, P .. 'rewritten_room', 0
  redis.call('DEL', copy)
  each_entry(key, function(id, fields)
    if is_removal(fields[6]) then removals = removals + 1
    elseif removes(removal_id, from, content, id, fields[4]) then fields[6] = REMOVED end
    redis.call('XADD', copy, id, unpack(fields))
  end)
  if redis.call('EXISTS', copy) == 1 then redis.call('RENAME', copy, key) end
  count_removals(room, removals)
end

-- How many removals there are before a room's oldest message.
local function count_oldest_removals(key)
  local count, from = 0, '-'
  while true do
    local entry = redis.call('XRANGE', key, from, '+', 'COUNT', 1)[1]
    if not entry or is_foreign(entry) or not is_removal(entry[2][6]) then return count end
    count, from = count + 1, following_id(entry[1])
  end
end

-- After entries at the front of a room were deleted.
local function recount_removals(room)
  if redis.call('HEXISTS', P .. 'removals', room) == 0 then return end
  local removals = 0
  each_entry(P .. 'room:' .. room, function(_, fields) if is_removal(fields[6]) then removals = removals + 1 end end)
  count_removals(room, removals)
end

-- Idempotent.
local function append_to_room(room, id, prev, from, content, time, max_messages)
  local key = P .. 'room:' .. room
  local removals = tonumber(redis.call('HGET', P .. 'removals', room) or 0)
  if is_removal(content) then removals = removals + 1 end
  local function add(call)
    return call('XADD', key, 'MAXLEN', max_messages + removals, id, 'p', prev, 'f', from, 'c', content, 't', time)
  end
  if removals > 0 then
    if not is_removal(content) and redis.call('XLEN', key) >= max_messages + removals then
      removals = removals - count_oldest_removals(key) -- which are deleted with the oldest message
    end
    count_removals(room, removals)
  end
  if type(add(redis.pcall)) ~= 'table' then return end
  -- The message is there already, or the key holds foreign data: entries with later ids, or no stream at all.
  if redis.call('TYPE', key).ok ~= 'stream' then
    redis.call('DEL', key)
    redis.call('XADD', key, 'MAXLEN', 0, '0-1', 'p', '')
  end
  for _, later in ipairs(redis.call('XRANGE', key, id, '+')) do redis.call('XDEL', key, later[1]) end
  redis.call('XSETID', key, previous_id(id))
  add(redis.call)
end

-- Updates a room's approximate memory use and the sum over all rooms.
local function update_room_bytes(room)
  local bytes = redis.call('MEMORY', 'USAGE', P .. 'room:' .. room) or 0
  local before = redis.call('ZSCORE', P .. 'rooms:bytes', room) or 0
  redis.call('HINCRBY', P .. 'meta', 'room_bytes', string.format('%.0f', bytes - before))
  if bytes > 0 then redis.call('ZADD', P .. 'rooms:bytes', bytes, room)
  else redis.call('ZREM', P .. 'rooms:bytes', room) end
end

local function set_presence(node, room, client, connections)
  local key = P .. 'presence:' .. node .. ':' .. room
  if connections == '0' then redis.call('HDEL', key, client)
  else redis.call('HSET', key, client, connections) end
  local update = redis.call('EXISTS', key) == 1 and 'SADD' or 'SREM'
  redis.call(update, P .. 'room_nodes:' .. room, node)
  redis.call(update, P .. 'node_rooms:' .. node, room)
end

local function remove_node(node)
  for _, room in ipairs(redis.call('SMEMBERS', P .. 'node_rooms:' .. node)) do
    redis.call('DEL', P .. 'presence:' .. node .. ':' .. room)
    redis.call('SREM', P .. 'room_nodes:' .. room, node)
  end
  redis.call('DEL', P .. 'node_rooms:' .. node)
  redis.call('HDEL', P .. 'nodes', node)
end

-- Applies the log's last record to the other keys, if that has not been done. Idempotent.
-- Returns the head of the log, or nil if the prefix is unused.
local function apply_pending()
  local meta = redis.call('HMGET', P .. 'meta', 'head', 'applied')
  local head, applied = meta[1], meta[2]
  if head == applied then return head end
  if not applied then -- the log has no record yet
    redis.call('HSET', P .. 'meta', 'applied', head)
    return head
  end
  local record = redis.call('XRANGE', P .. 'log', head, head)[1]
  if not record then -- lost in a crash of Redis
    redis.call('HSET', P .. 'meta', 'head', applied)
    return applied
  end
  local fields, room_heads = record[2], {}
  local node, number, max_messages, time = string.match(fields[2], '^(%S+) (%d+) %S+ (%d+) (%d+)$')
  if node ~= '-' then redis.call('HSET', P .. 'nodes', node, number) end
  for i = 3, #fields, 2 do
    local field, value = fields[i], fields[i + 1]
    if field == 'm' then
      local id, prev, room, from = string.match(value, '^(%S+) (%S+) (%S+) (%S+)$')
      append_to_room(room, id, prev, from, fields[i + 3], time, max_messages)
      room_heads[room] = id
    elseif field == 'x' then
      local id, prev, room, from = string.match(value, '^(%S+) (%S+) (%S+) (%S+)$')
      append_to_room(room, id, prev, from, fields[i + 3], time, max_messages)
      erase(room, id, from, fields[i + 3])
      redis.call('HSET', P .. 'heads', room, id)
      update_room_bytes(room)
    elseif field == 'k' then
      local latest, session = string.match(value, '^(%d+ %S+) (.+)$')
      redis.call('HSET', P .. 'sessions', session, latest)
      redis.call('ZADD', P .. 'sessions:used', time, session)
    elseif field == 'p' then set_presence(node, string.match(value, '^(%S+) (%S+) (%d+)$'))
    elseif field == 'b' then
      local client, until_ms, rooms = string.match(value, '^(%S+) (%d+) (.+)$')
      local ban = client .. ' ' .. rooms
      if until_ms == '0' then redis.call('HDEL', P .. 'bans', ban) else redis.call('HSET', P .. 'bans', ban, until_ms) end
    elseif field == 'd' then remove_node(value) end
  end
  for room, id in pairs(room_heads) do
    redis.call('HSET', P .. 'heads', room, id)
    redis.call('ZADD', P .. 'rooms', time, room)
    local oldest = redis.call('ZSCORE', P .. 'rooms:oldest', room)
    if not oldest or tonumber(oldest) > tonumber(time) then redis.call('ZADD', P .. 'rooms:oldest', time, room) end
    update_room_bytes(room)
  end
  redis.call('HSET', P .. 'meta', 'applied', head)
  return head
end

-- For a script that only reads, and so also works on a Redis that rejects writes for now. Returns the head of the log, and the
-- fields of the last record if it could not be applied.
local function apply_or_read_pending()
  local is_applied, head = pcall(apply_pending)
  if is_applied then return head, {} end
  head = redis.call('HGET', P .. 'meta', 'head')
  local record = redis.call('XRANGE', P .. 'log', head, head)[1]
  if record then return head, record[2] end
  return redis.call('HGET', P .. 'meta', 'applied'), {}
end

-- The id before the next message of a room.
local function last_id_of(room)
  return redis.call('HGET', P .. 'heads', room) or redis.call('HGET', P .. 'meta', 'origin')
end

-- The log keeps about MAX_TRIM_POINTS * TRIM_BYTES.
local MAX_TRIM_POINTS, TRIM_BYTES = 64, 1048576

-- Commits a script: has to be the last write of it. Returns how many bytes were ever written to the log.
local function write_record(id, record)
  local bytes = 100
  for _, text in ipairs(record) do bytes = bytes + #text end
  local count = redis.call('HINCRBY', P .. 'meta', 'records', 1)
  local written = redis.call('HINCRBY', P .. 'meta', 'bytes', bytes)
  if math.floor(written / TRIM_BYTES) ~= math.floor((written - bytes) / TRIM_BYTES) then
    redis.call('RPUSH', P .. 'trim_points', count)
    if redis.call('LLEN', P .. 'trim_points') > MAX_TRIM_POINTS then
      redis.call('XTRIM', P .. 'log', 'MAXLEN', math.max(0, count - redis.call('LPOP', P .. 'trim_points')))
    end
  end
  redis.call('HSET', P .. 'meta', 'head', id)
  redis.call('XADD', P .. 'log', id, unpack(record))
  return written
end

-- A full Redis rejects writes, except in a script that has already deleted something.
local function allow_writes_when_full() redis.call('DEL', P .. 'nothing') end
