-- Shared by the scripts of an import. Their first arguments: token, lease in milliseconds.
if redis.call('HGET', P .. 'import', 'token') ~= ARGV[1] then
  return redis.error_reply('another import has begun meanwhile')
end
redis.call('SET', P .. 'lease:import', 1, 'PX', ARGV[2])
