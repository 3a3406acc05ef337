-- Completes an import: from here on, servers can join. Further arguments: an id that is not before any imported one, and the origin.
local room_bytes = redis.call('HGET', P .. 'meta', 'room_bytes') or 0
for _, key in ipairs({ 'meta', 'log', 'trim_points' }) do redis.call('DEL', P .. key) end
local head, origin = ARGV[3], ARGV[4]
redis.call('HSET', P .. 'meta', 'version', VERSION, 'epoch', head, 'origin', origin, 'head', head, 'applied', head, 'room_bytes', room_bytes)
redis.call('DEL', P .. 'lease:import', P .. 'import')
return 1
