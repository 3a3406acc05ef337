-- The messages after an id. Arguments: room, limits of messages and of their bytes, id.
-- Returns 1 if no message between the id and the first of them is missing, else 0; and the messages, oldest first.
local room, id = ARGV[1], ARGV[4]
local key = P .. 'room:' .. room
local _, fields = apply_or_read_pending()
local pending = pending_messages(room, fields)
local oldest = pending[1]
for _, entry in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 50)) do
  if not is_foreign(entry) then oldest = entry break end
end
local before_oldest = oldest and oldest[2][2] or redis.call('HGET', P .. 'heads', room) or redis.call('HGET', P .. 'meta', 'origin')
local is_recovered = id == before_oldest or #redis.call('XRANGE', key, id, id) > 0
for _, entry in ipairs(pending) do is_recovered = is_recovered or entry[1] == id end
local ms, sequence = split_id(id)
local from = format_id(ms, sequence + 1)
return { is_recovered and 1 or 0, read_range(key, from, '+', false, tonumber(ARGV[2]), tonumber(ARGV[3]), pending) }
