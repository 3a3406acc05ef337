-- The messages after an id. Further argument: the id.
-- Returns 1 if no message between the id and the first of them is missing, else 0; and the messages, oldest first.
local id, oldest = ARGV[4], pending[1]
for _, entry in ipairs(redis.call('XRANGE', key, '-', '+', 'COUNT', 50)) do
  if not is_foreign(entry) then oldest = entry break end
end
local before_oldest = oldest and oldest[2][2] or last_id_of(room)
local is_recovered = id == before_oldest or #redis.call('XRANGE', key, id, id) > 0
for _, entry in ipairs(pending) do is_recovered = is_recovered or entry[1] == id end
return { is_recovered and 1 or 0, read(following_id(id)) }
