-- node: takes it for dead if it is not alive, and says so to all; once → 1, or 0
local node, prev = ARGV[1], catchUp()
if redis.call('EXISTS', P .. 'alive:' .. node) == 1 or redis.call('HEXISTS', P .. 'nodes', node) == 0 then return 0 end
log(idOf(idAfter(newest(prev), 0)), { 'h', '- 0 ' .. prev .. ' 0 ' .. string.format('%.0f', clock()), 'd', node })
return 1
