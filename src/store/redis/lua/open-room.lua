-- room, entries at most, their bytes → top, head, the latest entries (newest first), and client, node, connections of who is there
local room = ARGV[1]
local top, fields = look()
local pending = pendingIn(room, fields)
local entries = take(P .. 'room:' .. room, '+', '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
local there = {}
for _, node in ipairs(redis.call('SMEMBERS', P .. 'in:' .. room)) do
  if redis.call('EXISTS', P .. 'alive:' .. node) == 1 then
    local here = redis.call('HGETALL', P .. 'here:' .. node .. ' ' .. room)
    for i = 1, #here, 2 do
      there[#there + 1] = here[i]
      there[#there + 1] = node
      there[#there + 1] = here[i + 1]
    end
  end
end
for i = 3, #fields, 2 do
  local where, client, connections = string.match(fields[i] == 'p' and fields[i + 1] or '', '^(%S+) (%S+) (%d+)$')
  if where == room then
    there[#there + 1] = client
    there[#there + 1] = string.match(fields[2], '^%S+')
    there[#there + 1] = connections
  end
end
local head = #pending > 0 and pending[#pending][1] or redis.call('HGET', P .. 'heads', room)
  or redis.call('HGET', P .. 'meta', 'origin')
return { top, head, entries, there }
