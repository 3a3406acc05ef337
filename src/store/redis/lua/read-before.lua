-- room, entries at most, their bytes, an id or nothing → the entries before it or all, newest first
local room, from = ARGV[1], ARGV[4] == '' and '+' or idBefore(ARGV[4])
local _, fields = look()
local pending = pendingIn(room, fields)
return take(P .. 'room:' .. room, from, '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
