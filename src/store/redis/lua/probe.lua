-- Every command of the scripts, called so that it has no effect: on a key that does not exist or is of another type.
-- HSET is first, because Redis rejects only the first write of a script when it is full, and because it creates `meta`.
local meta, nothing = P .. 'meta', P .. 'nothing'
local probes = {
  { 'HSET', meta, 'asked', 1 }, { 'HINCRBY', meta, 'asked', 0 }, { 'RPUSH', meta, 1 }, { 'SADD', meta, 1 },
  { 'XADD', P .. 'log', '0-0', 'p', '' }, { 'XSETID', meta, '0-1' }, { 'SET', nothing, 1, 'XX' }, { 'ZADD', nothing, 'XX', 1, 1 },
  { 'DEL', nothing }, { 'RENAME', nothing, nothing }, { 'HDEL', nothing, 1 }, { 'LPOP', nothing }, { 'PEXPIRE', nothing, 1 }, { 'SREM', nothing, 1 },
  { 'XDEL', nothing, '0-1' }, { 'XTRIM', nothing, 'MAXLEN', 1 }, { 'ZREM', nothing, 1 },
  { 'EXISTS', nothing }, { 'HEXISTS', nothing, 1 }, { 'HGET', nothing, 1 }, { 'HGETALL', nothing }, { 'HKEYS', nothing },
  { 'HSCAN', nothing, 0 },
  { 'HMGET', nothing, 1 }, { 'INFO', 'memory' }, { 'LLEN', nothing }, { 'MEMORY', 'USAGE', nothing }, { 'SMEMBERS', nothing },
  { 'TIME' }, { 'TYPE', nothing }, { 'XLEN', nothing }, { 'XRANGE', nothing, '-', '+' }, { 'XREVRANGE', nothing, '+', '-' },
  { 'ZCARD', nothing }, { 'ZCOUNT', nothing, 0, 1 }, { 'ZRANGE', nothing, 0, 1 }, { 'ZRANGEBYSCORE', nothing, 0, 1 },
  { 'ZREVRANGE', nothing, 0, 1 }, { 'ZREVRANK', nothing, 1 }, { 'ZSCORE', nothing, 1 },
}

-- Returns why Redis rejects a command, or ''.
local function find_rejection()
  for _, probe in ipairs(probes) do
    local reply = redis.pcall(unpack(probe))
    local reason = type(reply) == 'table' and reply.err or ''
    -- XADD fails only for its id, and writes to `meta` only for its type, if Redis accepts them.
    if reason ~= '' and not string.find(reason, 'must be greater', 1, true) and not string.find(reason, 'WRONGTYPE', 1, true)
        and not string.find(reason, 'no such key', 1, true) then
      return reason
    end
  end
  return ''
end
