-- Writes a batch of one node as one record.
-- Arguments: node, batch number, random sequence for new ids, messages per room at most, counts of presence and session
-- updates; then for each presence update: room, client, connections; for each session update: client, session, fencing
-- token; for each message: room, from, session, seq, required seq, content.
-- Returns 'written', 'eviction due' (written, and a heartbeat should follow now), 'written before' or 'unknown node'.
local prev = apply_pending()
local node, number, max_messages = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local last_number = redis.call('HGET', P .. 'nodes', node)
if not last_number then return 'unknown node' end
if number <= tonumber(last_number) then return 'written before' end
local ms, sequence = next_id(last_id(prev), ARGV[3])
local record = { 'h', table.concat({ node, ARGV[2], prev, max_messages, string.format('%.0f', clock()) }, ' ') }
local function put(field, value)
  record[#record + 1] = field
  record[#record + 1] = value
end

local first_session = 7 + 3 * ARGV[5]
local first_message = first_session + 3 * ARGV[6]
for i = 7, first_message - 1, 3 do
  put(i < first_session and 'p' or 's', ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
end

local heads, sessions = {}, {}
for i = first_message, #ARGV, 6 do
  local room, from, session, seq, required_seq, content = unpack(ARGV, i, i + 5)
  local result, latest
  if session ~= '' then
    local key = from .. ' ' .. session
    latest = sessions[key]
    if latest == nil then
      local stored_seq, id = string.match(redis.call('HGET', P .. 'sessions', key) or '', '^(%d+) (%S+)$')
      latest = { seq = tonumber(stored_seq) or 0, id = id }
      sessions[key] = latest
    end
    local number = tonumber(seq)
    if latest.id and number <= latest.seq then
      result = 'duplicate ' .. seq .. (number == latest.seq and ' ' .. latest.id or '')
    elseif required_seq ~= '' and latest.seq < tonumber(required_seq) then result = 'out_of_order' end
  end
  if result then put('r', result)
  else
    local id = format_id(ms, sequence)
    sequence = sequence + 1
    put('m', id .. ' ' .. (heads[room] or last_id_of(room)) .. ' ' .. room .. ' ' .. from)
    put('c', content)
    heads[room] = id
    if latest then latest.seq, latest.id, latest.text, latest.is_new = tonumber(seq), id, seq, true end
  end
end
for key, latest in pairs(sessions) do
  if latest.is_new then put('k', latest.text .. ' ' .. latest.id .. ' ' .. key) end
end
local bytes = write_record(format_id(ms, sequence), record)
local meta = redis.call('HMGET', P .. 'meta', 'room_bytes', 'evict_at')
return bytes + (meta[1] or 0) < tonumber(meta[2] or 0) and 'written' or 'eviction due'
