-- Removes a node whose lease has expired, by a record that all nodes read. Argument: node.
-- Returns 1, or 0 if it has a lease or was removed before.
local node, prev = ARGV[1], apply_pending()
if redis.call('EXISTS', P .. 'lease:' .. node) == 1 or redis.call('HEXISTS', P .. 'nodes', node) == 0 then return 0 end
write_record(format_id(next_id(last_id(prev), 0)), { 'h', '- 0 ' .. prev .. ' 0 ' .. string.format('%.0f', clock()), 'd', node })
return 1
