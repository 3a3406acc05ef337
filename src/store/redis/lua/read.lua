-- Shared by the scripts that read. They also work on a Redis that rejects writes for now, where the last record cannot
-- be applied: then they read that record as well.

-- Returns the head of the log, and the fields of the last record if it could not be applied.
local function apply_or_read_pending()
  local is_applied, head = pcall(apply_pending)
  if is_applied then return head, {} end
  head = redis.call('HGET', P .. 'meta', 'head')
  local record = redis.call('XRANGE', P .. 'log', head, head)[1]
  if record then return head, record[2] end
  return redis.call('HGET', P .. 'meta', 'applied'), {}
end

-- The messages of a room that are in such a record only, as entries of the room's stream.
local function pending_messages(room, fields)
  local pending, time = {}, string.match(fields[2] or '', '%d+$')
  for i = 3, #fields, 2 do
    if fields[i] == 'm' then
      local id, prev, its_room, from = string.match(fields[i + 1], '^(%S+) (%S+) (%S+) (%S+)$')
      if its_room == room and #redis.call('XRANGE', P .. 'room:' .. room, id, id) == 0 then
        pending[#pending + 1] = { id, { 'p', prev, 'f', from, 'c', fields[i + 3], 't', time } }
      end
    end
  end
  return pending
end

local function is_foreign(entry) return entry[2][1] ~= 'p' or entry[2][7] ~= 't' end

local function is_before(id, other)
  local ms, sequence = split_id(id)
  local other_ms, other_sequence = split_id(other)
  return ms < other_ms or (ms == other_ms and sequence < other_sequence)
end

-- A room's messages, pending ones included, from one id towards another, up to a count and up to the message that passes
-- the limit of bytes.
local function read_range(key, from, to, is_backwards, max_count, max_bytes, pending)
  local range, bytes = {}, 0
  -- Returns whether the range is full.
  local function add(entry)
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    range[#range + 1] = entry
    return bytes > max_bytes or #range == max_count
  end
  if max_count == 0 then return range end
  if is_backwards then
    for i = #pending, 1, -1 do
      if (from == '+' or not is_before(from, pending[i][1])) and add(pending[i]) then return range end
    end
  end
  while true do
    local entries =
      redis.call(is_backwards and 'XREVRANGE' or 'XRANGE', key, from, to, 'COUNT', math.min(50, max_count - #range))
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      if add(entry) then return range end
      local ms, sequence = split_id(entry[1])
      from = is_backwards and previous_id(entry[1]) or format_id(ms, sequence + 1)
    end
  end
  if not is_backwards then
    for _, entry in ipairs(pending) do
      if not is_before(entry[1], from) and add(entry) then return range end
    end
  end
  return range
end
