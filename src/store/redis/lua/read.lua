-- Shared by the scripts that read a room. Their first arguments: room, limits of messages and of their bytes. If the last
-- record could not be applied, its messages are read as well.
local room, max_count, max_bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local key = P .. 'room:' .. room
local head, fields = apply_or_read_pending()

-- The room's messages and its removal in that record, as entries of its stream.
local pending, removal, time = {}, nil, string.match(fields[2] or '', '%d+$')
for i = 3, #fields, 2 do
  if fields[i] == 'm' or fields[i] == 'x' then
    local id, prev, its_room, from = string.match(fields[i + 1], '^(%S+) (%S+) (%S+) (%S+)$')
    local entry = { id, { 'p', prev, 'f', from, 'c', fields[i + 3], 't', time } }
    if its_room == room then
      if fields[i] == 'x' then removal = entry end
      if #redis.call('XRANGE', key, id, id) == 0 then pending[#pending + 1] = entry end
    end
  end
end

local function is_removed(entry)
  local content = entry[2][6]
  return removal and not is_removal(content) and removes(removal[1], removal[2][4], removal[2][6], entry[1], entry[2][4])
end

-- The messages from an id on, or back to the oldest, up to the limits, and the removals among them; the one that passes the
-- limit of bytes is included.
local function read(from, is_backwards)
  local messages, count_read, bytes = {}, 0, 0
  -- Returns whether a limit is reached.
  local function add(entry)
    local is_ours = not is_foreign(entry)
    if is_ours and is_removed(entry) then entry[2][6] = REMOVED end
    for _, text in ipairs(entry[2]) do bytes = bytes + #text end
    messages[#messages + 1] = entry
    if not (is_ours and is_removal(entry[2][6])) then count_read = count_read + 1 end
    return bytes > max_bytes or count_read == max_count
  end
  if max_count == 0 then return messages end
  if is_backwards then
    for i = #pending, 1, -1 do
      if (from == '+' or not is_before(from, pending[i][1])) and add(pending[i]) then return messages end
    end
  end
  while true do
    local count = math.min(50, max_count - count_read)
    local entries = redis.call(is_backwards and 'XREVRANGE' or 'XRANGE', key, from, is_backwards and '-' or '+', 'COUNT', count)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      if add(entry) then return messages end
      from = is_backwards and previous_id(entry[1]) or following_id(entry[1])
    end
  end
  if not is_backwards then
    for _, entry in ipairs(pending) do
      if not is_before(entry[1], from) and add(entry) then return messages end
    end
  end
  return messages
end
