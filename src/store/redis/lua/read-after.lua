-- room, entries at most, their bytes, an id → whether nothing is missing after it, and the entries after it
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
