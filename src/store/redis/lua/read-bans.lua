-- Returns client and room patterns of each ban, separated by spaces, and when it ends.
pcall(apply_pending) -- what could not be applied is read from the log
return redis.call('HGETALL', P .. 'bans')
