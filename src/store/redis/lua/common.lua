local P = KEYS[1]
local function idOf(ms, sequence) return string.format('%.0f-%.0f', ms, sequence) end
local function parts(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
-- The id after all others; sequences start anywhere, so that an id hardly comes again after a loss of data. Where the
-- newest is ahead of the clock, it is they that grow with time.
local function idAfter(id, sequence)
  local now, last, lastSequence = clock(), parts(id)
  if now > last then return now, tonumber(sequence) end
  return last, math.max(lastSequence + 1, now * 100)
end
-- Somebody else may have put something into the log behind all that is ours: what comes next comes after that, too.
local function newest(top)
  local ms, sequence = parts(top)
  local beyond = redis.call('XREVRANGE', P .. 'log', '+', idOf(ms, sequence + 1), 'COUNT', 1)[1]
  return beyond and beyond[1] or top
end
local function idBefore(id)
  local ms, sequence = parts(id)
  if sequence > 0 then return idOf(ms, sequence - 1) end
  return idOf(math.max(ms - 1, 0), 9007199254740991)
end
-- An entry of a room, where it may be already.
local function keep(room, id, head, from, content, time, history)
  local key = P .. 'room:' .. room
  local function add(call)
    return call('XADD', key, 'MAXLEN', history, id, 'p', head, 'f', from, 'c', content, 't', time)
  end
  if type(add(redis.pcall)) ~= 'table' then return end
  -- Somebody else has put there what would come after this, or no stream: that goes, and the room goes on.
  if redis.call('TYPE', key).ok ~= 'stream' then redis.call('DEL', key) redis.call('XADD', key, 'MAXLEN', 0, '0-1', 'p', '') end
  for _, later in ipairs(redis.call('XRANGE', key, id, '+')) do redis.call('XDEL', key, later[1]) end
  redis.call('XSETID', key, idBefore(id))
  add(redis.call)
end
-- About how much memory the entries of a room take, and with that those of all rooms.
local function weigh(room)
  local bytes = redis.call('MEMORY', 'USAGE', P .. 'room:' .. room) or 0
  local before = redis.call('ZSCORE', P .. 'rooms:bytes', room) or 0
  redis.call('HINCRBY', P .. 'meta', 'roomBytes', string.format('%.0f', bytes - before))
  if bytes > 0 then redis.call('ZADD', P .. 'rooms:bytes', bytes, room)
  else redis.call('ZREM', P .. 'rooms:bytes', room) end
end
local function present(node, room, client, connections)
  local here = P .. 'here:' .. node .. ' ' .. room
  if connections == '0' then redis.call('HDEL', here, client)
  else redis.call('HSET', here, client, connections) end
  local change = redis.call('EXISTS', here) == 1 and 'SADD' or 'SREM'
  redis.call(change, P .. 'in:' .. room, node)
  redis.call(change, P .. 'rooms:' .. node, room)
end
local function dead(node)
  for _, room in ipairs(redis.call('SMEMBERS', P .. 'rooms:' .. node)) do
    redis.call('DEL', P .. 'here:' .. node .. ' ' .. room)
    redis.call('SREM', P .. 'in:' .. room, node)
  end
  redis.call('DEL', P .. 'rooms:' .. node)
  redis.call('HDEL', P .. 'nodes', node)
end
-- What follows from the last record; done twice, it is the same. → the last record
local function catchUp()
  local meta = redis.call('HMGET', P .. 'meta', 'top', 'done')
  local top, done = meta[1], meta[2]
  if top == done then return top end
  if not done then -- all that is there was put there at once
    redis.call('HSET', P .. 'meta', 'done', top)
    return top
  end
  local record = redis.call('XRANGE', P .. 'log', top, top)[1]
  if not record then -- lost, before it was written or since
    redis.call('HSET', P .. 'meta', 'top', done)
    return done
  end
  local fields, heads = record[2], {}
  local node, number, history, time = string.match(fields[2], '^(%S+) (%d+) %S+ (%d+) (%d+)$')
  if node ~= '-' then redis.call('HSET', P .. 'nodes', node, number) end
  for i = 3, #fields, 2 do
    local is, text = fields[i], fields[i + 1]
    if is == 'm' then
      local id, head, room, from = string.match(text, '^(%S+) (%S+) (%S+) (%S+)$')
      keep(room, id, head, from, fields[i + 3], time, history)
      heads[room] = id
    elseif is == 'k' then
      local said, key = string.match(text, '^(%d+ %S+) (.+)$')
      redis.call('HSET', P .. 'sessions', key, said)
      redis.call('ZADD', P .. 'sessions:used', time, key)
    elseif is == 'p' then present(node, string.match(text, '^(%S+) (%S+) (%d+)$'))
    elseif is == 'd' then dead(text) end
  end
  for room, id in pairs(heads) do
    redis.call('HSET', P .. 'heads', room, id)
    redis.call('ZADD', P .. 'rooms', time, room)
    local oldest = redis.call('ZSCORE', P .. 'rooms:oldest', room)
    if not oldest or tonumber(oldest) > tonumber(time) then redis.call('ZADD', P .. 'rooms:oldest', time, room) end
    weigh(room)
  end
  redis.call('HSET', P .. 'meta', 'done', top)
  return top
end
-- The last thing that a script does: without the record nothing of it is so.
local LOG_MARKS, MARK_BYTES = 64, 1048576
local function log(id, record)
  local bytes = 100
  for _, text in ipairs(record) do bytes = bytes + #text end
  local count = redis.call('HINCRBY', P .. 'meta', 'records', 1)
  local written = redis.call('HINCRBY', P .. 'meta', 'bytes', bytes)
  if math.floor(written / MARK_BYTES) ~= math.floor((written - bytes) / MARK_BYTES) then
    redis.call('RPUSH', P .. 'marks', count)
    if redis.call('LLEN', P .. 'marks') > LOG_MARKS then
      redis.call('XTRIM', P .. 'log', 'MAXLEN', math.max(0, count - redis.call('LPOP', P .. 'marks')))
    end
  end
  redis.call('HSET', P .. 'meta', 'top', id)
  redis.call('XADD', P .. 'log', id, unpack(record))
end
