/**
 * What happens inside Redis: each script is one step that nothing else comes between. The keys, all with one prefix:
 *
 *     meta          hash: born, the id of the conversation; origin, where rooms begin; top, the newest id of the log
 *     log           stream: what every node follows; a record for each batch, which names the one before it
 *     room:ROOM     stream: the latest messages of a room; heads, hash: the newest id of each; rooms and rooms:oldest,
 *                   sorted by the Unix time in milliseconds of their newest and (about) their oldest message
 *     sessions      hash: the highest number kept of each, and its id; sessions:used, sorted by last use
 *     nodes         hash: each node and its last batch; alive:NODE, with a time to live
 *     here:NODE ROOM  hash: clients that a node has in a room; in:ROOM and rooms:NODE, sets: which of these there are
 */

const PRELUDE = `
local P = KEYS[1]
local function idOf(ms, sequence) return string.format('%.0f-%.0f', ms, sequence) end
local function parts(id)
  local ms, sequence = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(sequence)
end
-- The id after all others; sequences start anywhere, so that an id hardly comes again after a loss of data.
local function idAfter(id, sequence)
  local time, last, lastSequence = redis.call('TIME'), parts(id)
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  if now > last then return now, tonumber(sequence) end
  return last, lastSequence + 1
end
-- Somebody else may have put something into the log behind all that is ours: what comes next comes after that, too.
local function newest(top)
  local ms, sequence = parts(top)
  local beyond = redis.call('XREVRANGE', P .. 'log', '+', idOf(ms, sequence + 1), 'COUNT', 1)[1]
  return beyond and beyond[1] or top
end
-- A record is the first thing written: what may fail fails here, and nothing has happened.
local LOG_MARKS, MARK_BYTES = 64, 1048576
local function log(top, record)
  redis.call('XADD', P .. 'log', top, unpack(record))
  redis.call('HSET', P .. 'meta', 'top', top)
  local bytes = 100
  for _, text in ipairs(record) do bytes = bytes + #text end
  local count = redis.call('HINCRBY', P .. 'meta', 'records', 1)
  local written = redis.call('HINCRBY', P .. 'meta', 'bytes', bytes)
  if math.floor(written / MARK_BYTES) == math.floor((written - bytes) / MARK_BYTES) then return end
  redis.call('RPUSH', P .. 'marks', count)
  if redis.call('LLEN', P .. 'marks') > LOG_MARKS then
    redis.call('XTRIM', P .. 'log', 'MAXLEN', count - redis.call('LPOP', P .. 'marks'))
  end
end
local function idBefore(id)
  local ms, sequence = parts(id)
  if sequence > 0 then return idOf(ms, sequence - 1) end
  return idOf(math.max(ms - 1, 0), 9007199254740991)
end
-- Entries of a room from one id to another, as far as they are not too many or too large.
local function take(key, from, to, isBackwards, count, maxBytes)
  local taken, bytes = {}, 0
  local command = isBackwards and 'XREVRANGE' or 'XRANGE'
  while #taken < count do
    local some = redis.call(command, key, from, to, 'COUNT', math.min(50, count - #taken))
    for _, entry in ipairs(some) do
      for _, text in ipairs(entry[2]) do bytes = bytes + #text end
      taken[#taken + 1] = entry
      if bytes > maxBytes then return taken end
      local ms, sequence = parts(entry[1])
      from = isBackwards and idBefore(entry[1]) or idOf(ms, sequence + 1)
    end
    if #some == 0 then break end
  end
  return taken
end
`;

/** What is run there; by its hash, when Redis has seen it before. */
export interface Script {
  readonly source: string;
  readonly sha: string;
}

export function script(body: string): Script {
  const source = PRELUDE + body;
  return { source, sha: new Bun.CryptoHasher("sha1").update(source).digest("hex") };
}

/**
 * A batch. node, its number, a number for new ids, messages of a room at most, how many of the next two kinds;
 * room, client, connections; client, session, ticket; room, from, session, seq, after, content → "written", or why not.
 */
export const write = script(`
local node, number, history = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local known = redis.call('HGET', P .. 'nodes', node)
if not known then return 'unknown node' end
if number <= tonumber(known) then return 'written before' end
local meta = redis.call('HMGET', P .. 'meta', 'top', 'origin')
local prev, origin = meta[1], meta[2]
local ms, sequence = idAfter(newest(prev), ARGV[3])
local record = { 'h', node .. ' ' .. ARGV[2] .. ' ' .. prev }
local function put(field, text)
  record[#record + 1] = field
  record[#record + 1] = text
end

local at = 7
local presence, sessionsAt = at, at + 3 * ARGV[5]
for i = presence, sessionsAt - 1, 3 do put('p', ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2]) end
local drafts = sessionsAt + 3 * ARGV[6]
for i = sessionsAt, drafts - 1, 3 do put('s', ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2]) end

local heads, sessions, kept = {}, {}, {}
for i = drafts, #ARGV, 6 do
  local room, from, session, seq, after, content = unpack(ARGV, i, i + 5)
  local verdict, key, said
  if session ~= '' then
    key = from .. ' ' .. session
    said = sessions[key]
    if said == nil then
      local seq, id = string.match(redis.call('HGET', P .. 'sessions', key) or '', '^(%d+) (%S+)$')
      said = { seq = tonumber(seq) or 0, id = id }
      sessions[key] = said
    end
    local number = tonumber(seq)
    if said.id and number <= said.seq then verdict = 'r ' .. seq .. (number == said.seq and ' ' .. said.id or '')
    elseif after ~= '' and said.seq < tonumber(after) then verdict = 'o' end
  end
  if verdict then put('v', verdict)
  else
    local head = heads[room] or redis.call('HGET', P .. 'heads', room) or origin
    local id = idOf(ms, sequence)
    sequence = sequence + 1
    put('m', id .. ' ' .. head .. ' ' .. room .. ' ' .. from)
    put('c', content)
    kept[#kept + 1] = { P .. 'room:' .. room, id, head, from, content }
    heads[room] = id
    if said then said.seq, said.id, said.text, said.isNew = tonumber(seq), id, seq, true end
  end
end

log(idOf(ms, sequence), record)
redis.call('HSET', P .. 'nodes', node, number)
for _, message in ipairs(kept) do
  local key, id, head, from, content = unpack(message)
  local function keep(call) return call('XADD', key, 'MAXLEN', history, id, 'p', head, 'f', from, 'c', content) end
  if type(keep(redis.pcall)) == 'table' then
    -- Somebody else has put there what would come after this, or no stream: that goes, and the room goes on.
    if redis.call('TYPE', key).ok ~= 'stream' then redis.call('DEL', key) redis.call('XADD', key, 'MAXLEN', 0, '0-1', 'p', '') end
    for _, foreign in ipairs(redis.call('XRANGE', key, id, '+')) do redis.call('XDEL', key, foreign[1]) end
    redis.call('XSETID', key, idBefore(id))
    keep(redis.call)
  end
end
for room, id in pairs(heads) do
  redis.call('HSET', P .. 'heads', room, id)
  redis.call('ZADD', P .. 'rooms', ms, room)
  redis.call('ZADD', P .. 'rooms:oldest', 'NX', ms, room)
end
for key, said in pairs(sessions) do
  if said.isNew then
    redis.call('HSET', P .. 'sessions', key, said.text .. ' ' .. said.id)
    redis.call('ZADD', P .. 'sessions:used', ms, key)
  end
end
for i = presence, sessionsAt - 1, 3 do
  local room, client, connections = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local here = P .. 'here:' .. node .. ' ' .. room
  if connections == '0' then redis.call('HDEL', here, client)
  else redis.call('HSET', here, client, connections) end
  local change = redis.call('EXISTS', here) == 1 and 'SADD' or 'SREM'
  redis.call(change, P .. 'in:' .. room, node)
  redis.call(change, P .. 'rooms:' .. node, room)
end
return 'written'
`);

/** room, entries at most, their bytes → top, head, the latest entries (newest first), and client, node, connections of who is there */
export const open = script(`
local room = ARGV[1]
local entries = take(P .. 'room:' .. room, '+', '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]))
local there = {}
for _, node in ipairs(redis.call('SMEMBERS', P .. 'in:' .. room)) do
  if redis.call('EXISTS', P .. 'alive:' .. node) == 1 then
    local here = redis.call('HGETALL', P .. 'here:' .. node .. ' ' .. room)
    for i = 1, #here, 2 do
      there[#there + 1] = here[i]
      there[#there + 1] = node
      there[#there + 1] = here[i + 1]
    end
  end
end
local meta = redis.call('HMGET', P .. 'meta', 'top', 'origin')
return { meta[1], redis.call('HGET', P .. 'heads', room) or meta[2], entries, there }
`);

/** room, entries at most, their bytes, an id → whether nothing is missing after it, and the entries after it */
export const readAfter = script(`
local key, id = P .. 'room:' .. ARGV[1], ARGV[4]
local ms, sequence = parts(id)
local oldest = redis.call('XRANGE', key, '-', '+', 'COUNT', 1)[1]
local before = oldest and oldest[2][2] or redis.call('HGET', P .. 'heads', ARGV[1])
  or redis.call('HGET', P .. 'meta', 'origin')
local isKept = id == before or #redis.call('XRANGE', key, id, id) > 0
local entries = take(key, idOf(ms, sequence + 1), '+', false, tonumber(ARGV[2]), tonumber(ARGV[3]))
return { isKept and 1 or 0, entries }
`);

/** room, entries at most, their bytes, an id or nothing → the entries before it or all, newest first */
export const readBefore = script(`
local from = ARGV[4] == '' and '+' or idBefore(ARGV[4])
return take(P .. 'room:' .. ARGV[1], from, '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]))
`);

/** client and session → the highest number kept of it, and its id, or nothing */
export const readSent = script(`return redis.call('HGET', P .. 'sessions', ARGV[1])`);

/** → Redis' clock, in seconds and microseconds */
export const clock = script(`return redis.call('TIME')`);
