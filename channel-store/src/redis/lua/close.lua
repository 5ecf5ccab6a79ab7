-- close: takes one session's entry away, and leaves a tombstone where a copy of its login may still travel.
-- Allowed out of memory: it only shrinks, but for that. Follows user.lua.
--
-- KEYS  3 tombstone of the session
-- ARGV  2 session  3 '1' to leave a tombstone  4 seconds that it stands
-- reply how many
local removed = call('HDEL', entries, ARGV[2])
forget_if_gone(ARGV[4])
if ARGV[3] == '1' then call('SET', KEYS[3], '1', 'EX', ARGV[4]) end
return removed
