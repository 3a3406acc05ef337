-- Deletes what an import has written, a part at a time. Further argument: '1' to end the import.
-- Returns whether there is more.
local MAX_ROOMS = 500
local rooms = redis.call('ZRANGE', P .. 'rooms', 0, MAX_ROOMS - 1)
for _, room in ipairs(rooms) do
  redis.call('DEL', P .. 'room:' .. room)
  for _, zset in ipairs({ 'rooms', 'rooms:oldest', 'rooms:bytes' }) do redis.call('ZREM', P .. zset, room) end
end
if #rooms == MAX_ROOMS then return 1 end
for _, key in ipairs({ 'heads', 'removals', 'sessions', 'sessions:used', 'log', 'trim_points', 'meta' }) do redis.call('DEL', P .. key) end
if ARGV[3] == '1' then redis.call('DEL', P .. 'lease:import', P .. 'import') end
return 0
