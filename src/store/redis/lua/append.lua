-- A batch. node, its number, a number for new ids, messages of a room at most, how many of the next two kinds; room, client, connections; client, session, ticket; room, from, session, seq, after, content → "written", or why not.
local prev = catchUp()
local node, number, history = ARGV[1], tonumber(ARGV[2]), ARGV[4]
local known = redis.call('HGET', P .. 'nodes', node)
if not known then return 'unknown node' end
if number <= tonumber(known) then return 'written before' end
local origin = redis.call('HGET', P .. 'meta', 'origin')
local ms, sequence = idAfter(newest(prev), ARGV[3])
local record = { 'h', table.concat({ node, ARGV[2], prev, history, string.format('%.0f', clock()) }, ' ') }
local function put(field, text)
  record[#record + 1] = field
  record[#record + 1] = text
end

local sessionsAt = 7 + 3 * ARGV[5]
local draftsAt = sessionsAt + 3 * ARGV[6]
for i = 7, draftsAt - 1, 3 do
  put(i < sessionsAt and 'p' or 's', ARGV[i] .. ' ' .. ARGV[i + 1] .. ' ' .. ARGV[i + 2])
end

local heads, sessions = {}, {}
for i = draftsAt, #ARGV, 6 do
  local room, from, session, seq, after, content = unpack(ARGV, i, i + 5)
  local verdict, key, said
  if session ~= '' then
    key = from .. ' ' .. session
    said = sessions[key]
    if said == nil then
      local seq, id = string.match(redis.call('HGET', P .. 'sessions', key) or '', '^(%d+) (%S+)$')
      said = { seq = tonumber(seq) or 0, id = id }
      sessions[key] = said
    end
    local number = tonumber(seq)
    if said.id and number <= said.seq then verdict = 'r ' .. seq .. (number == said.seq and ' ' .. said.id or '')
    elseif after ~= '' and said.seq < tonumber(after) then verdict = 'o' end
  end
  if verdict then put('v', verdict)
  else
    local head = heads[room] or redis.call('HGET', P .. 'heads', room) or origin
    local id = idOf(ms, sequence)
    sequence = sequence + 1
    put('m', id .. ' ' .. head .. ' ' .. room .. ' ' .. from)
    put('c', content)
    heads[room] = id
    if said then said.seq, said.id, said.text, said.isNew = tonumber(seq), id, seq, true end
  end
end
for key, said in pairs(sessions) do
  if said.isNew then put('k', said.text .. ' ' .. said.id .. ' ' .. key) end
end
log(idOf(ms, sequence), record)
return 'written'
