-- A consistent snapshot of a room. Arguments: room, limits of messages and of their bytes.
-- Returns the head of the log, the room's last id, its latest messages (newest first), and its presence on all live nodes
-- as client, node, connections, client, node, …
local room = ARGV[1]
local head, fields = apply_or_read_pending()
local pending = pending_messages(room, fields)
local messages = read_range(P .. 'room:' .. room, '+', '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
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
local room_head = #pending > 0 and pending[#pending][1] or redis.call('HGET', P .. 'heads', room)
  or redis.call('HGET', P .. 'meta', 'origin')
return { head, room_head, messages, presence }
