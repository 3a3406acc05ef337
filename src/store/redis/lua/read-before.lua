-- The latest messages before an id. Further argument: the id, or '' for the end. Returns the messages, newest first.
return read(ARGV[4] == '' and '+' or previous_id(ARGV[4]), true)
