-- The rooms with messages, that of the latest message first. Arguments: the room before them or '', their number at most.
-- Returns name, id and time of the latest message of each; nil if the room before them has no messages.
pcall(apply_pending) -- if it could not be applied, a room may be in its former place
local first = 0
if ARGV[1] ~= '' then
  local rank = redis.call('ZREVRANK', P .. 'rooms', ARGV[1])
  if not rank then return nil end
  first = rank + 1
end
-- Removals are no messages.
local function latest_message(room)
  local from = '+'
  while true do
    local entry = redis.call('XREVRANGE', P .. 'room:' .. room, from, '-', 'COUNT', 1)[1]
    if not entry then return nil end
    if not is_foreign(entry) and not is_removal(entry[2][6]) then return entry[1] end
    from = previous_id(entry[1])
  end
end
local rooms = {}
local latest = redis.call('ZREVRANGE', P .. 'rooms', first, first + ARGV[2] - 1, 'WITHSCORES')
for i = 1, #latest, 2 do
  local room, time = latest[i], latest[i + 1]
  local id = latest_message(room)
  if id then rooms[#rooms + 1] = { room, id, time } end
end
return rooms
