-- Renews a node's lease and deletes what is too old or too much.
-- Arguments: node, lease in milliseconds, maximum age of messages (0: none) and of sessions in milliseconds, maximum
-- numbers of rooms and of sessions.
-- Returns: whether the node is known; whether its lease had not expired; the head of the log; the epoch; the nodes without
-- a lease; why Redis rejects writes, or ''; Redis' clock; the numbers of rooms evicted, of rooms trimmed and
-- of sessions evicted because Redis is nearly full, or why that could not be determined.
local node = ARGV[1]
pcall(apply_pending) -- which fails on a full Redis; most of what follows still works
local rejection = find_rejection()
local now = clock()
local is_known = redis.call('HEXISTS', P .. 'nodes', node)
local was_alive = 0
if is_known == 1 then
  was_alive = redis.call('PEXPIRE', P .. 'lease:' .. node, ARGV[2])
  if was_alive == 0 then redis.call('SET', P .. 'lease:' .. node, 1, 'PX', ARGV[2]) end
end

-- At most this many rooms and sessions are deleted at once.
local MAX_DELETIONS, MAX_SESSION_DELETIONS = 500, 2000
local DAY_MS = 24 * 60 * 60 * 1000
local function is_empty(room) return redis.call('EXISTS', P .. 'room_nodes:' .. room) == 0 end
-- The origin changes with each deletion, so that no client that knows the old one counts as recovered.
local function delete_room(room)
  redis.call('HSET', P .. 'meta', 'origin', redis.call('HGET', P .. 'meta', 'head'))
  redis.call('DEL', P .. 'room:' .. room)
  redis.call('HDEL', P .. 'heads', room)
  redis.call('HDEL', P .. 'removals', room)
  redis.call('ZREM', P .. 'rooms:oldest', room)
  redis.call('ZREM', P .. 'rooms', room)
  update_room_bytes(room)
end

-- Returns how many were deleted.
local function delete_sessions(count)
  local sessions = redis.call('ZRANGE', P .. 'sessions:used', 0, count - 1)
  if #sessions > 0 then
    redis.call('HDEL', P .. 'sessions', unpack(sessions))
    redis.call('ZREM', P .. 'sessions:used', unpack(sessions))
  end
  return #sessions
end

-- Shares of the memory limit. Above EMPTY, sessions are evicted while they use more than SESSIONS, those unused for longest
-- first, and then empty rooms, those without new messages for longest first; above OCCUPIED, the largest of the others are
-- halved, which includes empty rooms larger than LARGE. Foreign keys reduce what is left for these, but never evict all of
-- them. LOG is for the log.
local EMPTY, OCCUPIED, LARGE, SESSIONS, LOG = 0.75, 0.85, 0.25, 0.25, 0.25
-- Bytes in use and their limit; without maxmemory, half of the machine's memory.
local function memory()
  local info = redis.call('INFO', 'memory')
  local function bytes(name) return tonumber(string.match(info, '\n' .. name .. ':(%d+)')) or 0 end
  local max = bytes('maxmemory')
  if max == 0 then max = bytes('total_system_memory') / 2 end
  return bytes('used_memory') - bytes('mem_not_counted_for_evict'), max
end
-- Returns the numbers of rooms evicted, of rooms trimmed and of sessions evicted.
local function evict()
  local used, max = memory()
  if used <= EMPTY * max then return 0, 0, 0 end
  apply_pending() -- before the last record may be trimmed away
  local max_trim_points = math.floor(LOG * max / TRIM_BYTES)
  while redis.call('LLEN', P .. 'trim_points') > max_trim_points do
    local before = redis.call('LPOP', P .. 'trim_points')
    redis.call('XTRIM', P .. 'log', 'MAXLEN', math.max(1, redis.call('HGET', P .. 'meta', 'records') - before))
  end
  local function room_bytes() return tonumber(redis.call('HGET', P .. 'meta', 'room_bytes')) or 0 end
  local function measure_sessions()
    return (redis.call('MEMORY', 'USAGE', P .. 'sessions') or 0) + (redis.call('MEMORY', 'USAGE', P .. 'sessions:used') or 0)
  end
  local session_bytes = measure_sessions()
  local available = max - math.max(0, memory() - room_bytes() - session_bytes)
  local function is_above(share) return available > 0 and room_bytes() + session_bytes > share * available end
  local evicted, trimmed, sessions = 0, 0, 0
  while session_bytes > SESSIONS * available and is_above(EMPTY) do
    local deleted = delete_sessions(100)
    sessions = sessions + deleted
    if sessions >= MAX_SESSION_DELETIONS then return 0, 0, sessions end -- rooms wait until there are fewer sessions
    if deleted == 0 then break end
    session_bytes = measure_sessions()
  end
  for _, room in ipairs(redis.call('ZRANGE', P .. 'rooms', 0, 2 * MAX_DELETIONS - 1)) do
    if evicted == MAX_DELETIONS or not is_above(EMPTY) then break end
    local is_large = tonumber(redis.call('ZSCORE', P .. 'rooms:bytes', room) or 0) > LARGE * available
    if is_empty(room) and not is_large then
      delete_room(room)
      evicted = evicted + 1
    else redis.call('ZADD', P .. 'rooms', now, room) end -- or occupied rooms would hide the others
  end
  for _, room in ipairs(redis.call('ZREVRANGE', P .. 'rooms:bytes', 0, MAX_DELETIONS - 1)) do
    if not is_above(OCCUPIED) then break end
    local key = P .. 'room:' .. room
    redis.call('XTRIM', key, 'MAXLEN', math.floor(redis.call('XLEN', key) / 2))
    recount_removals(room)
    update_room_bytes(room)
    trimmed = trimmed + 1
  end
  return evicted, trimmed, sessions
end
-- After how many more bytes in the log and in rooms an append asks for a heartbeat; other keys grow as well.
local function bytes_until_eviction(evicted, sessions)
  if evicted == MAX_DELETIONS or sessions >= MAX_SESSION_DELETIONS then return 0 end
  local used, max = memory()
  return math.max(EMPTY * max - used, max / 32) / 4
end
allow_writes_when_full()
local is_memory_known, evicted, trimmed, sessions = pcall(evict)
if is_memory_known and string.find(rejection, 'maxmemory', 1, true) then
  local used, max = memory()
  if used <= max then rejection = '' end
end
if is_memory_known then
  local meta = redis.call('HMGET', P .. 'meta', 'bytes', 'room_bytes')
  local evict_at = (meta[1] or 0) + (meta[2] or 0) + bytes_until_eviction(evicted, sessions)
  redis.pcall('HSET', P .. 'meta', 'evict_at', string.format('%.0f', evict_at))
end

-- The log still contains what was removed. After the time of a lease all nodes have read it, or read their rooms anew.
local erasure = redis.call('HMGET', P .. 'meta', 'erase_log_at', 'erase_log_records', 'records', 'head', 'applied')
if erasure[1] and math.abs(now - erasure[1]) >= tonumber(ARGV[2]) and erasure[4] == erasure[5] then
  redis.call('XTRIM', P .. 'log', 'MAXLEN', math.max(1, (erasure[3] or 0) - erasure[2]))
  redis.call('HDEL', P .. 'meta', 'erase_log_at', 'erase_log_records')
end

-- After the clock was wrong: a time in the future counts as now.
for _, zset in ipairs({ 'rooms', 'sessions:used' }) do
  local future = '(' .. string.format('%.0f', now)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. zset, future, '+inf', 'LIMIT', 0, MAX_DELETIONS)) do
    redis.call('ZADD', P .. zset, now, name)
  end
end
local expired = redis.call('ZCOUNT', P .. 'sessions:used', '-inf', now - ARGV[4])
local excess_sessions = redis.call('ZCARD', P .. 'sessions:used') - ARGV[6]
local deletions = math.min(math.max(expired, excess_sessions), MAX_SESSION_DELETIONS)
if deletions > 0 then delete_sessions(deletions) end

local cutoff = tonumber(ARGV[3]) > 0 and now - ARGV[3] or 0
-- Deletes a room's oldest messages up to the first that is not too old; one with a time in the future is as old as the
-- next. Returns the time of the oldest message left, or nil if none has a valid time.
local function prune(room)
  local key, from, candidates, pruned = P .. 'room:' .. room, '-', {}, 0
  while pruned < 20 do
    local messages = redis.call('XRANGE', key, from, '+', 'COUNT', 20)
    if #messages == 0 then return nil end
    for _, message in ipairs(messages) do
      local time = tonumber(message[2][8])
      candidates[#candidates + 1] = message[1]
      if time and time <= now then
        if time > cutoff then return time end
        for _, id in ipairs(candidates) do redis.call('XDEL', key, id) end
        pruned = pruned + #candidates
        candidates = {}
      end
      from = following_id(message[1])
    end
  end
  return cutoff
end
for _, room in ipairs(redis.call('ZRANGEBYSCORE', P .. 'rooms:oldest', '-inf', cutoff, 'LIMIT', 0, MAX_DELETIONS)) do
  local oldest = prune(room)
  recount_removals(room)
  if oldest then redis.call('ZADD', P .. 'rooms:oldest', oldest, room)
  elseif redis.call('XLEN', P .. 'room:' .. room) > 0 then redis.call('ZADD', P .. 'rooms:oldest', now, room)
  elseif is_empty(room) then delete_room(room)
  else redis.call('ZREM', P .. 'rooms:oldest', room) end
  update_room_bytes(room)
end
local excess_rooms = redis.call('ZCARD', P .. 'rooms') - ARGV[5]
if excess_rooms > 0 then
  for _, room in ipairs(redis.call('ZRANGE', P .. 'rooms', 0, math.min(excess_rooms, MAX_DELETIONS) - 1)) do
    if is_empty(room) then delete_room(room)
    else redis.call('ZADD', P .. 'rooms', now, room) end -- or occupied rooms would hide the others
  end
end

-- A part of the bans in each heartbeat. Those that have ended stay for a day, during which a wrong clock can be set right.
local scan = redis.call('HSCAN', P .. 'bans', redis.call('HGET', P .. 'meta', 'ban_cursor') or '0', 'COUNT', MAX_DELETIONS)
local bans = scan[2]
for i = 1, #bans, 2 do
  if tonumber(bans[i + 1]) <= now - DAY_MS then redis.call('HDEL', P .. 'bans', bans[i]) end
end
redis.call('HSET', P .. 'meta', 'ban_cursor', scan[1])

local expired_nodes = {}
for _, other in ipairs(redis.call('HKEYS', P .. 'nodes')) do
  if redis.call('EXISTS', P .. 'lease:' .. other) == 0 then expired_nodes[#expired_nodes + 1] = other end
end
local meta = redis.call('HMGET', P .. 'meta', 'head', 'epoch')
local eviction = is_memory_known and { evicted, trimmed, sessions } or tostring(evicted)
return { is_known, was_alive, meta[1], meta[2], expired_nodes, rejection, now, eviction }
