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
end
