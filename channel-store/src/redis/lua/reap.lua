-- reap: ends memberships of a dead incarnation; onLeave for the last session of each user. The tombstone comes first: a
-- join that is under way comes too late. Allowed out of memory, as leave. Follows epoch.lua, append.lua, members.lua.
--
-- KEYS  9 tombstone of the incarnation  10 sessions of the incarnation
-- ARGV  7 how many at most  8 seconds that the tombstone stands
-- reply { ended, remaining }
call('SET', KEYS[9], '1', 'EX', ARGV[8])
local ended = 0
for _, session in ipairs(call('SRANDMEMBER', KEYS[10], ARGV[7])) do
  local record = call('HGET', sessions, session)
  if record then
    remove(session, record)
    ended = ended + 1
  end
  call('SREM', KEYS[10], session)
end
if ended > 0 then refresh() end
return { ended, call('SCARD', KEYS[10]) }
