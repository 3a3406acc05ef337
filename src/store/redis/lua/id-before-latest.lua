-- room, entries at most, their bytes → the id just before as many of its latest entries
local room = ARGV[1]
local _, fields = look()
local pending = pendingIn(room, fields)
local latest = take(P .. 'room:' .. room, '+', '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
for i = #latest, 1, -1 do
  if isOurs(latest[i]) then return latest[i][2][2] end
end
return redis.call('HGET', P .. 'heads', room) or redis.call('HGET', P .. 'meta', 'origin')
