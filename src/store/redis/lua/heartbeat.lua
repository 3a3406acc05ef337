-- node, milliseconds to live, the ages in milliseconds at which entries (0: at none) and sessions go, rooms and sessions at most → whether it is known, whether it was alive, top, born, nodes that are not alive, why nothing can be written, or nothing; Redis' clock; rooms that went and rooms that lost something because Redis is nearly full, or why that was not found out
local node = ARGV[1]
-- A Redis that is full still does most of what follows.
pcall(catchUp)
local function why(reply) return type(reply) == 'table' and reply.err or nil end
-- No id at all is the mistake that it finds where all else is right.
local append = why(redis.pcall('XADD', P .. 'log', '0-0', 'p', '')) or ''
local refusal = why(redis.pcall('HSET', P .. 'meta', 'asked', 1))
  or (not string.find(append, 'must be greater', 1, true) and append) or ''
-- Redis' own clock: a node's may be wrong.
local now = clock()
local isKnown = redis.call('HEXISTS', P .. 'nodes', node)
local wasAlive = 0
if isKnown == 1 then
  wasAlive = redis.call('PEXPIRE', P .. 'alive:' .. node, ARGV[2])
  if wasAlive == 0 then redis.call('SET', P .. 'alive:' .. node, 1, 'PX', ARGV[2]) end
end

-- A room that nobody is in. Where rooms begin is another place from now on: nobody who knew the old one can tell what was
-- forgotten.
local function forgetRoom(room)
  redis.call('HSET', P .. 'meta', 'origin', redis.call('HGET', P .. 'meta', 'top'))
  redis.call('DEL', P .. 'room:' .. room)
  redis.call('HDEL', P .. 'heads', room)
  redis.call('ZREM', P .. 'rooms:oldest', room)
  redis.call('ZREM', P .. 'rooms', room)
  weigh(room)
end
local function isEmpty(room) return redis.call('EXISTS', P .. 'in:' .. room) == 0 end
local AT_ONCE = 500
-- Well before Redis is full, rooms go that nobody is in ...
local SILENT, OCCUPIED, LARGE, LOG = 0.75, 0.85, 0.25, 0.125
-- Bytes in use, and how many may be; where no bound is set, half of the machine's memory.
local function memory()
  local info = redis.call('INFO', 'memory')
  local function bytes(name) return tonumber(string.match(info, '\n' .. name .. ':(%d+)')) or 0 end
  local max = bytes('maxmemory')
  if max == 0 then max = bytes('total_system_memory') / 2 end
  return bytes('used_memory') - bytes('mem_not_counted_for_evict'), max
end
-- → rooms that went, and rooms that lost something
local function evict()
  local used, max = memory()
  if used <= SILENT * max then return 0, 0 end
  catchUp() -- what is last in the log may be cut off with the rest of it
  local marks = math.floor(LOG * max / MARK_BYTES)
  while redis.call('LLEN', P .. 'marks') > marks do
    local before = redis.call('LPOP', P .. 'marks')
    redis.call('XTRIM', P .. 'log', 'MAXLEN', math.max(1, redis.call('HGET', P .. 'meta', 'records') - before))
  end
  local function bytes() return tonumber(redis.call('HGET', P .. 'meta', 'roomBytes')) or 0 end
  local free = max - math.max(0, memory() - bytes())
  local function isTight(share) return free > 0 and bytes() > share * free end
  local evicted, trimmed = 0, 0
  for _, room in ipairs(redis.call('ZRANGE', P .. 'rooms', 0, 2 * AT_ONCE - 1)) do
    if evicted == AT_ONCE or not isTight(SILENT) then break end
    local isLarge = tonumber(redis.call('ZSCORE', P .. 'rooms:bytes', room) or 0) > LARGE * free
    if isEmpty(room) and not isLarge then
      forgetRoom(room)
      evicted = evicted + 1
    else redis.call('ZADD', P .. 'rooms', now, room) end -- or those in use would hide all others
  end
  for _, room in ipairs(redis.call('ZREVRANGE', P .. 'rooms:bytes', 0, AT_ONCE - 1)) do
    if not isTight(OCCUPIED) then break end
    local key = P .. 'room:' .. room
    redis.call('XTRIM', key, 'MAXLEN', math.floor(redis.call('XLEN', key) / 2))
    weigh(room)
    trimmed = trimmed + 1
  end
  return evicted, trimmed
end
redis.call('DEL', P .. 'nothing')
local isFound, evicted, trimmed = pcall(evict)
if isFound and string.find(refusal, 'maxmemory', 1, true) then
  local used, max = memory()
  if used <= max then refusal = '' end
end

local function forget(key, zset, last)
  for _, name in ipairs(redis.call('ZRANGE', P .. zset, 0, last)) do
    redis.call('HDEL', P .. key, name)
    redis.call('ZREM', P .. zset, name)
  end
end
-- What is from a time that is still to come, since the clock was wrong, is from now.
for _, zset in ipairs({ 'rooms', 'sessions:used' }) do
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', P .. zset, '(' .. string.format('%.0f', now), '+inf', 'LIMIT', 0, AT_ONCE)) do
    redis.call('ZADD', P .. zset, now, name)
  end
end
local old = redis.call('ZCOUNT', P .. 'sessions:used', '-inf', now - ARGV[4])
local tooMany = redis.call('ZCARD', P .. 'sessions:used') - ARGV[6]
local sessions = math.min(math.max(old, tooMany), AT_ONCE)
if sessions > 0 then forget('sessions', 'sessions:used', sessions - 1) end

local cutoff = tonumber(ARGV[3]) > 0 and now - ARGV[3] or 0
-- Only from the front: entries as long as they are too old, and those from a time that is still to come with the next.
local function prune(room)
  local key, from, waiting, pruned = P .. 'room:' .. room, '-', {}, 0
  while pruned < 20 do
    local some = redis.call('XRANGE', key, from, '+', 'COUNT', 20)
    if #some == 0 then return nil end
    for _, entry in ipairs(some) do
      local time = tonumber(entry[2][8])
      waiting[#waiting + 1] = entry[1]
      if time and time <= now then
        if time > cutoff then return time end
        for _, id in ipairs(waiting) do redis.call('XDEL', key, id) end
        pruned = pruned + #waiting
        waiting = {}
      end
      local ms, sequence = parts(entry[1])
      from = idOf(ms, sequence + 1)
    end
  end
  return cutoff
end
for _, room in ipairs(redis.call('ZRANGEBYSCORE', P .. 'rooms:oldest', '-inf', cutoff, 'LIMIT', 0, AT_ONCE)) do
  local oldest = prune(room)
  if oldest then redis.call('ZADD', P .. 'rooms:oldest', oldest, room)
  elseif redis.call('XLEN', P .. 'room:' .. room) > 0 then redis.call('ZADD', P .. 'rooms:oldest', now, room)
  elseif isEmpty(room) then forgetRoom(room)
  else redis.call('ZREM', P .. 'rooms:oldest', room) end
  weigh(room)
end
tooMany = redis.call('ZCARD', P .. 'rooms') - ARGV[5]
if tooMany > 0 then
  for _, room in ipairs(redis.call('ZRANGE', P .. 'rooms', 0, math.min(tooMany, AT_ONCE) - 1)) do
    if isEmpty(room) then forgetRoom(room)
    else redis.call('ZADD', P .. 'rooms', now, room) end -- or those in use would hide all others
  end
end

local missing = {}
for _, other in ipairs(redis.call('HKEYS', P .. 'nodes')) do
  if redis.call('EXISTS', P .. 'alive:' .. other) == 0 then missing[#missing + 1] = other end
end
local meta = redis.call('HMGET', P .. 'meta', 'top', 'born')
return { isKnown, wasAlive, meta[1], meta[2], missing, refusal, now, isFound and { evicted, trimmed } or tostring(evicted) }
