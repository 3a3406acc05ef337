/** What happens inside Redis for the nodes themselves: that they are alive, and what is forgotten. */

import { script } from "./prelude.ts";

/** node, milliseconds to live, a number for new ids → top, born */
export const register = script(`
if not catchUp() then
  local id = idOf(idAfter('0-0', ARGV[3]))
  redis.call('HSET', P .. 'meta', 'born', id, 'origin', id, 'top', id, 'done', id)
end
redis.call('HSET', P .. 'nodes', ARGV[1], 0)
redis.call('SET', P .. 'alive:' .. ARGV[1], 1, 'PX', ARGV[2])
return redis.call('HMGET', P .. 'meta', 'top', 'born')
`);

/**
 * node, milliseconds to live, the ages in milliseconds at which entries (0: at none) and sessions go, rooms and
 * sessions at most → whether it is known, whether it was alive, top, born, nodes that are not alive, and why nothing can
 * be written, or nothing
 */
export const renew = script(`
local node = ARGV[1]
-- A Redis that is full still does most of what follows.
pcall(catchUp)
local probe = redis.pcall('HSET', P .. 'meta', 'asked', 1)
-- Redis' own clock, which has made the ids: a node's may be wrong.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
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
end
local AT_ONCE = 500
local function forget(key, zset, last)
  for _, name in ipairs(redis.call('ZRANGE', P .. zset, 0, last)) do
    redis.call('HDEL', P .. key, name)
    redis.call('ZREM', P .. zset, name)
  end
end
local old = redis.call('ZCOUNT', P .. 'sessions:used', '-inf', now - ARGV[4])
local tooMany = redis.call('ZCARD', P .. 'sessions:used') - ARGV[6]
local sessions = math.min(math.max(old, tooMany), AT_ONCE)
if sessions > 0 then forget('sessions', 'sessions:used', sessions - 1) end

local function isEmpty(room) return redis.call('EXISTS', P .. 'in:' .. room) == 0 end
local cutoff = tonumber(ARGV[3]) > 0 and now - ARGV[3] or 0
for _, room in ipairs(redis.call('ZRANGEBYSCORE', P .. 'rooms:oldest', '-inf', cutoff, 'LIMIT', 0, AT_ONCE)) do
  local key = P .. 'room:' .. room
  for _, entry in ipairs(redis.call('XRANGE', key, '-', idOf(cutoff, 0), 'COUNT', 20)) do
    redis.call('XDEL', key, entry[1])
  end
  local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
  if oldest then
    local oldestMs = parts(oldest[1])
    redis.call('ZADD', P .. 'rooms:oldest', oldestMs, room)
  elseif isEmpty(room) then forgetRoom(room)
  else redis.call('ZREM', P .. 'rooms:oldest', room) end
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
return { isKnown, wasAlive, meta[1], meta[2], missing, type(probe) == 'table' and probe.err or '' }
`);

/** node: takes it for dead if it is not alive, and says so to all; once → 1, or 0 */
export const bury = script(`
local node, prev = ARGV[1], catchUp()
if redis.call('EXISTS', P .. 'alive:' .. node) == 1 or redis.call('HEXISTS', P .. 'nodes', node) == 0 then return 0 end
log(idOf(idAfter(newest(prev), 0)), { 'h', '- 0 ' .. prev .. ' 0', 'd', node })
return 1
`);

/** node: it goes, and its clients come back elsewhere or are taken for gone */
export const resign = script(`return redis.call('DEL', P .. 'alive:' .. ARGV[1])`);
