-- The rooms with messages, that of the latest message first. Arguments: the room before them or '', their number at most.
-- Returns name, id and time of the latest message of each; nil if the room before them has no messages.
pcall(apply_pending) -- if it could not be applied, a room may be in its former place
local first = 0
if ARGV[1] ~= '' then
  local rank = redis.call('ZREVRANK', P .. 'rooms', ARGV[1])
  if not rank then return nil end
  first = rank + 1
end
local rooms = {}
local latest = redis.call('ZREVRANGE', P .. 'rooms', first, first + ARGV[2] - 1, 'WITHSCORES')
for i = 1, #latest, 2 do
  local room, time = latest[i], latest[i + 1]
  local id = redis.call('HGET', P .. 'heads', room)
  if id and redis.call('XLEN', P .. 'room:' .. room) > 0 then rooms[#rooms + 1] = { room, id, time } end
end
return rooms
