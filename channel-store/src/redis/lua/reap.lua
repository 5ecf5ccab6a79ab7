-- reap: ends memberships of a dead incarnation, and appends onLeave for the last session of each user. The tombstone is set
-- first, so a join that is still under way is refused. Allowed when memory is full, as leave.
-- Follows epoch.lua, append.lua, clock.lua, members.lua.
--
-- KEYS  11 tombstone of the incarnation  12 sessions of the incarnation
-- ARGV  7 how many at most  8 seconds that the tombstone lasts  9 incarnation
-- reply { ended, remaining }
call('SET', KEYS[11], '1', 'EX', ARGV[8])
local ended = 0
for _, session in ipairs(call('SRANDMEMBER', KEYS[12], ARGV[7])) do
  local record = call('HGET', sessions, session)
  if record then
    remove(session, record)
    ended = ended + 1
  end
  call('SREM', KEYS[12], session)
end
fan_out()
if ended > 0 then refresh() end
local remaining = call('SCARD', KEYS[12])
if remaining == 0 then call('SREM', incarnations, ARGV[9]) end
return { ended, remaining }
