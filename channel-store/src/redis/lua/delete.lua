-- delete: ends everything in a channel: its log, and all memberships, without onLeave. It is an event and not an erasure: an
-- epoch begins with the publication onDeleted, which is all that the log holds afterwards. So connectors meet it in the log,
-- in order, and end the memberships that began before it. Offsets go on and the epoch is a new one, so that a reader who was behind
-- is told so. Tombstones stay: they refuse late joins of sessions that have left. If the key was used before, nothing happens,
-- and the answer is the first one. Allowed when memory is full: apart from its one publication it only removes data.
-- Follows epoch.lua, append.lua.
--
-- KEYS  6 sessions  7 users  8 detached members  9 incarnations  10 infos  11… sessions of the incarnations that are named
-- ARGV  6 (unused)  7 idempotency key, or ''  8 seconds that a key is remembered at least
--       9… the incarnations that have sessions here. A script may only use keys that are named in the call
-- reply { 'deleted', epoch, offset } | { 'again', incarnation, … }: call again and name these
--       | nil: nothing was published in the channel since it was deleted last, and it has no member
local sessions, incarnations, key = KEYS[6], KEYS[9], ARGV[7]
local window = math.floor(call('TIME')[1] / ARGV[8])
local memory = KEYS[3 + window % 2]

if not lifetime then return false end
if key ~= '' then
  local was = call('HGET', memory, '\0' .. key) or call('HGET', KEYS[4 - window % 2], '\0' .. key)
  if was then
    local e = epoch
    for id, start in string.gmatch(call('HGET', meta, 't'), '(%w+)@(%d+)') do
      if tonumber(start) <= tonumber(was) then e = id end
    end
    return { 'deleted', e, tonumber(was) }
  end
end
if last == tonumber(call('HGET', meta, 'z') or 0) and call('EXISTS', sessions) == 0 then return false end

local named = {}
for i = 9, #ARGV do named[ARGV[i]] = true end
local there = call('SMEMBERS', incarnations)
for _, incarnation in ipairs(there) do
  if not named[incarnation] then
    table.insert(there, 1, 'again')
    return there
  end
end
-- While the log is there, so that its epochs stay known, and readers who stand in them are told what they miss.
begin_epoch(call('INFO', 'replication'))
for i = 11, #KEYS do call('UNLINK', KEYS[i]) end
call('UNLINK', log, sessions, KEYS[7], KEYS[8], incarnations, KEYS[10])
append('onDeleted\0\0{}')
spoken = true
-- What was removed must not be given from a connector's memory either: see join.lua.
call('HSET', meta, 'z', format('%d', last), 'd', epoch, 'f', format('%d', last - 1))
if key ~= '' then
  call('HSET', memory, '\0' .. key, format('%d', last))
  call('EXPIREAT', memory, format('%d', (window + 2) * ARGV[8]))
end
fan_out()
refresh()
return { 'deleted', epoch, last }
