-- client and session → the highest number kept of it, and its id, or nothing
local _, fields = look()
for i = 3, #fields, 2 do
  local said, key = string.match(fields[i] == 'k' and fields[i + 1] or '', '^(%d+ %S+) (.+)$')
  if key == ARGV[1] then return said end
end
return redis.call('HGET', P .. 'sessions', ARGV[1])
