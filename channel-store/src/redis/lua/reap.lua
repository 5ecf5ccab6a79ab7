-- reap: ends memberships of a dead incarnation; onLeave for the last session of each user. The tombstone comes first: a
-- join that is under way comes too late. Allowed out of memory, as leave. Follows epoch.lua, append.lua, members.lua.
--
-- KEYS  10 tombstone of the incarnation  11 sessions of the incarnation
-- ARGV  7 how many at most  8 seconds that the tombstone stands  9 incarnation
-- reply { ended, remaining }
call('SET', KEYS[10], '1', 'EX', ARGV[8])
local ended = 0
for _, session in ipairs(call('SRANDMEMBER', KEYS[11], ARGV[7])) do
  local record = call('HGET', sessions, session)
  if record then
    remove(session, record)
    ended = ended + 1
  end
  call('SREM', KEYS[11], session)
end
fan_out()
if ended > 0 then refresh() end
local remaining = call('SCARD', KEYS[11])
if remaining == 0 then call('SREM', incarnations, ARGV[9]) end
return { ended, remaining }
