-- Removes one message of a room, or all of a client, by a record that all nodes read.
-- Arguments: room, messages per room at most, client or '-', id of the message or '', random sequence for the new id.
-- Returns how many messages are removed; -1 if the one message is not stored.
allow_writes_when_full()
local prev = apply_pending()
local room, max_messages, from, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local key, is_stored, count = P .. 'room:' .. room, message == '', 0
local function look(_, fields)
  if is_removal(fields[6]) then return end
  is_stored = true
  if fields[6] ~= REMOVED then count = count + 1 end
end
if message == '' then each_entry(key, function(id, fields) if fields[4] == from then look(id, fields) end end)
else
  local entry = redis.call('XRANGE', key, message, message)[1]
  if entry and not is_foreign(entry) then look(entry[1], entry[2]) end
end
if not is_stored then return -1 end
if count == 0 then return 0 end
local ms, sequence = next_id(last_id(prev), ARGV[5])
local id = format_id(ms, sequence)
local records = redis.call('HGET', P .. 'meta', 'records') or 0
if redis.call('HEXISTS', P .. 'meta', 'erase_log_at') == 0 then
  redis.call('HSET', P .. 'meta', 'erase_log_at', string.format('%.0f', clock()))
end
redis.call('HSET', P .. 'meta', 'erase_log_records', records)
write_record(format_id(ms, sequence + 1), {
  'h', '- 0 ' .. prev .. ' ' .. max_messages .. ' ' .. string.format('%.0f', clock()),
  'x', id .. ' ' .. last_id_of(room) .. ' ' .. room .. ' ' .. from, 'c', message == '' and 'a' or 'm' .. message,
})
return count
