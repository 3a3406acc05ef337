-- Argument: client and session, joined by a space. Returns the session's highest stored seq and its id, or nil.
local _, fields = apply_or_read_pending()
for i = 3, #fields, 2 do
  local latest, session = string.match(fields[i] == 'k' and fields[i + 1] or '', '^(%d+ %S+) (.+)$')
  if session == ARGV[1] then return latest end
end
return redis.call('HGET', P .. 'sessions', ARGV[1])
