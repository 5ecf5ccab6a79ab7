-- reap_logins: removes the entries of a dead incarnation. Allowed when memory is full, as reap. Follows user.lua.
--
-- KEYS  3 tombstone of the incarnation
-- ARGV  2 incarnation  3 seconds that the tombstone lasts
-- reply how many entries were removed
return reap(KEYS[3], ARGV[3], ARGV[2])
