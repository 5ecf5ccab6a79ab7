-- reap_user: takes a dead incarnation's entries away. Allowed out of memory, as reap. Follows user.lua.
--
-- KEYS  3 tombstone of the incarnation
-- ARGV  2 incarnation  3 seconds that the tombstone stands
-- reply how many
return bury(KEYS[3], ARGV[3], ARGV[2])
