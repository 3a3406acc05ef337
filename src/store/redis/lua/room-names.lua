-- The rooms with messages, that of the latest message first. Arguments: the room before them or '', their number at most.
-- Returns nil if that room has none.
pcall(apply_pending) -- if it could not be applied, a room may be in its former place
local first = 0
if ARGV[1] ~= '' then
  local rank = redis.call('ZREVRANK', P .. 'rooms', ARGV[1])
  if not rank then return nil end
  first = rank + 1
end
return redis.call('ZREVRANGE', P .. 'rooms', first, first + ARGV[2] - 1)
