-- leave: ends a membership that is older than this operation, and appends onLeave for its user's last session. Allowed when
-- memory is full: apart from its one publication it only removes data.
-- Follows epoch.lua, append.lua, clock.lua, members.lua.
--
-- KEYS  11 tombstone of the incarnation (unused)  12 tombstone of the session  13 sessions of the incarnation
-- ARGV  7 session  8 operation, or '' to end it whatever its operation  9 '1' to leave a tombstone
--       10 seconds that it lasts  11 incarnation
-- reply 1 if there was a membership to end, else 0
local session, operation, ended = ARGV[7], tonumber(ARGV[8]), 0

local expired = expire_due(10)
local record = call('HGET', sessions, session)
if record and (not operation or tonumber(string.match(record, '^%d+')) < operation) then
  remove(session, record)
  call('SREM', KEYS[13], session)
  if call('EXISTS', KEYS[13]) == 0 then call('SREM', incarnations, ARGV[11]) end
  ended = 1
end
if ended + expired > 0 then refresh() end
fan_out()

-- A copy of the session's join may still arrive. From now on it is refused.
if ARGV[9] == '1' then
  local was = call('GET', KEYS[12])
  local newest = was and tonumber(was) > operation and was or ARGV[8]
  call('SET', KEYS[12], newest, 'EX', ARGV[10])
end
return ended
