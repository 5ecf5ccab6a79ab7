-- close: removes the entry of one session. It leaves a tombstone if a copy of the session's login may still arrive. Allowed
-- when memory is full: apart from the tombstone it only removes data. Follows user.lua.
--
-- KEYS  3 tombstone of the session
-- ARGV  2 session  3 '1' to leave a tombstone  4 seconds that it lasts
-- reply how many entries were removed
local removed = call('HDEL', entries, ARGV[2])
forget_if_gone(ARGV[4])
if ARGV[3] == '1' then call('SET', KEYS[3], '1', 'EX', ARGV[4]) end
return removed
