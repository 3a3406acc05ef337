-- The latest messages before an id. Arguments: room, limits of messages and of their bytes, id or '' for the end.
-- Returns the messages, newest first.
local room, from = ARGV[1], ARGV[4] == '' and '+' or previous_id(ARGV[4])
local _, fields = apply_or_read_pending()
local pending = pending_messages(room, fields)
return read_range(P .. 'room:' .. room, from, '-', true, tonumber(ARGV[2]), tonumber(ARGV[3]), pending)
