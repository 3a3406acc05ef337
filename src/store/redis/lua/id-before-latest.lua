-- Returns the id just before the latest messages within the limits.
local latest = read('+', true)
for i = #latest, 1, -1 do
  if not is_foreign(latest[i]) then return latest[i][2][2] end
end
return last_id_of(room)
