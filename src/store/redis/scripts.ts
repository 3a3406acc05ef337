/** What happens inside Redis to messages. */

import { defineScript } from "./script.ts";

/**
 * A batch. node, its number, a number for new ids, messages of a room at most, how many of the next two kinds;
 * room, client, connections; client, session, ticket; room, from, session, seq, after, content → "written", or why not.
 */
export const appendBatch = defineScript(`
local prev = catchUp()
local node, number, history = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local known = redis.call('HGET', P .. 'nodes', node)
if not known then return 'unknown node' end
if number <= tonumber(known) then return 'written before' end
local origin = redis.call('HGET', P .. 'meta', 'origin')
local ms, sequence = idAfter(newest(prev), ARGV[3])
local record = { 'h', table.concat({ node, ARGV[2], prev, history, string.format('%.0f', clock()) }, ' ') }
local function put(field, text)
  record[#record + 1] = field
  record[#record + 1] = text
end

local sessionsAt = 7 + 3 * ARGV[5]
local draftsAt = sessionsAt + 3 * ARGV[6]
for i = 7, draftsAt - 1, 3 do
  put(i < sessionsAt and 'p' or 's', ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
end

local heads, sessions = {}, {}
for i = draftsAt, #ARGV, 6 do
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
    heads[room] = id
    if said then said.seq, said.id, said.text, said.isNew = tonumber(seq), id, seq, true end
  end
end
for key, said in pairs(sessions) do
  if said.isNew then put('k', said.text .. ' ' .. said.id .. ' ' .. key) end
end
log(idOf(ms, sequence), record)
return 'written'
`);

const LOOK = `
-- For what only reads: as catchUp. A Redis that takes no writes for now is read all the same: then there is also the last
-- record, from which it has not followed yet. → the last record, and its fields
local function look()
  local isDone, top = pcall(catchUp)
  if isDone then return top, {} end
  top = redis.call('HGET', P .. 'meta', 'top')
  local record = redis.call('XRANGE', P .. 'log', top, top)[1]
  if record then return top, record[2] end
  return redis.call('HGET', P .. 'meta', 'done'), {}
end
-- What that record has of a room, as entries of its stream.
local function pendingIn(room, fields)
  local pending, time = {}, string.match(fields[2] or '', '%d+$')
  for i = 3, #fields, 2 do
    if fields[i] == 'm' then
      local id, head, where, from = string.match(fields[i + 1], '^(%S+) (%S+) (%S+) (%S+)$')
      if where == room and #redis.call('XRANGE', P .. 'room:' .. room, id, id) == 0 then
        pending[#pending + 1] = { id, { 'p', head, 'f', from, 'c', fields[i + 3], 't', time } }
      end
    end
  end
  return pending
end
`;

const TAKE = `
${LOOK}
-- Not put there by somebody else.
local function isOurs(entry) return entry[2][1] == 'p' and entry[2][7] == 't' end
local function isBefore(id, other)
  local ms, sequence = parts(id)
  local otherMs, otherSequence = parts(other)
  return ms < otherMs or (ms == otherMs and sequence < otherSequence)
end
-- Entries of a room from one id to another and those that are pending, as far as they are not too many or too large.
local function take(key, from, to, isBackwards, count, maxBytes, pending)
  local taken, bytes = {}, 0
  local function isFull(entry)
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    taken[#taken + 1] = entry
    return bytes > maxBytes or #taken == count
  end
  if count == 0 then return taken end
  if isBackwards then
    for i = #pending, 1, -1 do
      if (from == '+' or not isBefore(from, pending[i][1])) and isFull(pending[i]) then return taken end
    end
  end
  while true do
    local some = redis.call(isBackwards and 'XREVRANGE' or 'XRANGE', key, from, to, 'COUNT', math.min(50, count - #taken))
    if #some == 0 then break end
    for _, entry in ipairs(some) do
      if isFull(entry) then return taken end
      local ms, sequence = parts(entry[1])
      from = isBackwards and idBefore(entry[1]) or idOf(ms, sequence + 1)
    end
  end
  if not isBackwards then
    for _, entry in ipairs(pending) do
      if not isBefore(entry[1], from) and isFull(entry) then return taken end
    end
  end
  return taken
end`;

/** room, entries at most, their bytes → top, head, the latest entries (newest first), and client, node, connections of who is there */
export const openRoom = defineScript(`
${TAKE}
local room = ARGV[1]
local top, fields = look()
local pending = pendingIn(room, fields)
local entries = take(P .. 'room:' .. room, '+', '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
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
for i = 3, #fields, 2 do
  local where, client, connections = string.match(fields[i] == 'p' and fields[i + 1] or '', '^(%S+) (%S+) (%d+)$')
  if where == room then
    there[#there + 1] = client
    there[#there + 1] = string.match(fields[2], '^%S+')
    there[#there + 1] = connections
  end
end
local head = #pending > 0 and pending[#pending][1] or redis.call('HGET', P .. 'heads', room)
  or redis.call('HGET', P .. 'meta', 'origin')
return { top, head, entries, there }
`);

/** room, entries at most, their bytes, an id → whether nothing is missing after it, and the entries after it */
export const readAfter = defineScript(`
${TAKE}
local room, id = ARGV[1], ARGV[4]
local key = P .. 'room:' .. room
local _, fields = look()
local pending = pendingIn(room, fields)
local ms, sequence = parts(id)
local oldest = pending[1]
for _, entry in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 50)) do
  if isOurs(entry) then oldest = entry break end
end
local before = oldest and oldest[2][2] or redis.call('HGET', P .. 'heads', room) or redis.call('HGET', P .. 'meta', 'origin')
local isKept = id == before or #redis.call('XRANGE', key, id, id) > 0
for _, entry in ipairs(pending) do isKept = isKept or entry[1] == id end
local entries = take(key, idOf(ms, sequence + 1), '+', false, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
return { isKept and 1 or 0, entries }
`);

/** room, entries at most, their bytes, an id or nothing → the entries before it or all, newest first */
export const readBefore = defineScript(`
${TAKE}
local room, from = ARGV[1], ARGV[4] == '' and '+' or idBefore(ARGV[4])
local _, fields = look()
local pending = pendingIn(room, fields)
return take(P .. 'room:' .. room, from, '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
`);

/** room, entries at most, their bytes → the id just before as many of its latest entries */
export const readIdBefore = defineScript(`
${TAKE}
local room = ARGV[1]
local _, fields = look()
local pending = pendingIn(room, fields)
local latest = take(P .. 'room:' .. room, '+', '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
for i = #latest, 1, -1 do
  if isOurs(latest[i]) then return latest[i][2][2] end
end
return redis.call('HGET', P .. 'heads', room) or redis.call('HGET', P .. 'meta', 'origin')
`);

/** client and session → the highest number kept of it, and its id, or nothing */
export const readLastSeq = defineScript(`
${LOOK}
local _, fields = look()
for i = 3, #fields, 2 do
  local said, key = string.match(fields[i] == 'k' and fields[i + 1] or '', '^(%d+ %S+) (.+)$')
  if key == ARGV[1] then return said end
end
return redis.call('HGET', P .. 'sessions', ARGV[1])
`);

/** Nothing else than what follows from the last record. */
export const applyPending = defineScript(`catchUp()`);

/** → Redis' clock, in seconds and microseconds */
export const serverTime = defineScript(`return redis.call('TIME')`);
