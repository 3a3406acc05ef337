-- Bans a client, by a record that all nodes read. Arguments: client, end in milliseconds, room patterns separated by spaces,
-- random sequence for the new id.
allow_writes_when_full()
local prev = apply_pending()
write_record(format_id(next_id(last_id(prev), ARGV[4])), {
  'h', '- 0 ' .. prev .. ' 0 ' .. string.format('%.0f', clock()), 'b', ARGV[1] .. ' ' .. ARGV[2] .. ' ' .. ARGV[3],
})
return 1
