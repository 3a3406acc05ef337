-- Adds a node. Arguments: node, lease in milliseconds, random sequence for a new id.
-- Returns the head of the log and the epoch.
if redis.call('EXISTS', P .. 'import') == 1 then
  return redis.error_reply('an import is running, or was interrupted. Import again.')
end
allow_writes_when_full()
if not apply_pending() then
  local id = format_id(next_id('0-0', ARGV[3]))
  redis.call('HSET', P .. 'meta', 'epoch', id, 'origin', id, 'head', id, 'applied', id)
end
local room_bytes, sizes = 0, redis.call('ZRANGE', P .. 'rooms:bytes', 0, -1, 'WITHSCORES')
for i = 2, #sizes, 2 do room_bytes = room_bytes + sizes[i] end
redis.call('HSET', P .. 'meta', 'version', VERSION, 'room_bytes', string.format('%.0f', room_bytes))
redis.call('HSET', P .. 'nodes', ARGV[1], 0)
redis.call('SET', P .. 'lease:' .. ARGV[1], 1, 'PX', ARGV[2])
return redis.call('HMGET', P .. 'meta', 'head', 'epoch')
