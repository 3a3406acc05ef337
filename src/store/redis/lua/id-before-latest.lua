-- Arguments: room, limits of messages and of their bytes. Returns the id just before the latest messages within them.
local room = ARGV[1]
local _, fields = apply_or_read_pending()
local pending = pending_messages(room, fields)
local latest = read_range(P .. 'room:' .. room, '+', '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
for i = #latest, 1, -1 do
  if not is_foreign(latest[i]) then return latest[i][2][2] end
end
return redis.call('HGET', P .. 'heads', room) or redis.call('HGET', P .. 'meta', 'origin')
