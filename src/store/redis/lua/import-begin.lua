-- Begins an import into an empty prefix, or into what an interrupted import left. Arguments: token, lease in milliseconds.
-- Returns 'begun', or why not: 'running', 'in use' or 'not empty'.
if redis.call('EXISTS', P .. 'import') == 1 then
  if redis.call('EXISTS', P .. 'lease:import') == 1 then return 'running' end
else
  for _, node in ipairs(redis.call('HKEYS', P .. 'nodes')) do
    if redis.call('EXISTS', P .. 'lease:' .. node) == 1 then return 'in use' end
  end
  apply_pending()
  for _, key in ipairs({ 'heads', 'rooms', 'sessions' }) do
    if redis.call('EXISTS', P .. key) == 1 then return 'not empty' end
  end
end
-- From here on no server joins, until the import is complete.
redis.call('HSET', P .. 'import', 'token', ARGV[1])
redis.call('SET', P .. 'lease:import', 1, 'PX', ARGV[2])
return 'begun'
