-- node, milliseconds to live, a number for new ids → top, born
redis.call('DEL', P .. 'nothing')
if not catchUp() then
  local id = idOf(idAfter('0-0', ARGV[3]))
  redis.call('HSET', P .. 'meta', 'born', id, 'origin', id, 'top', id, 'done', id)
end
local roomBytes, weighed = 0, redis.call('ZRANGE', P .. 'rooms:bytes', 0, -1, 'WITHSCORES')
for i = 2, #weighed, 2 do roomBytes = roomBytes + weighed[i] end
redis.call('HSET', P .. 'meta', 'roomBytes', string.format('%.0f', roomBytes))
redis.call('HSET', P .. 'nodes', ARGV[1], 0)
redis.call('SET', P .. 'alive:' .. ARGV[1], 1, 'PX', ARGV[2])
return redis.call('HMGET', P .. 'meta', 'top', 'born')
