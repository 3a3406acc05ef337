-- A consistent snapshot of a room. Returns the head of the log, the room's last id, its latest messages (newest first), and
-- its presence on all live nodes as client, node, connections, client, node, …
local presence = {}
for _, node in ipairs(redis.call('SMEMBERS', P .. 'room_nodes:' .. room)) do
  if redis.call('EXISTS', P .. 'lease:' .. node) == 1 then
    local clients = redis.call('HGETALL', P .. 'presence:' .. node .. ':' .. room)
    for i = 1, #clients, 2 do
      presence[#presence + 1] = clients[i]
      presence[#presence + 1] = node
      presence[#presence + 1] = clients[i + 1]
    end
  end
end
for i = 3, #fields, 2 do
  local its_room, client, connections = string.match(fields[i] == 'p' and fields[i + 1] or '', '^(%S+) (%S+) (%d+)$')
  if its_room == room then
    presence[#presence + 1] = client
    presence[#presence + 1] = string.match(fields[2], '^%S+')
    presence[#presence + 1] = connections
  end
end
return { head, #pending > 0 and pending[#pending][1] or last_id_of(room), read('+', true), presence }
