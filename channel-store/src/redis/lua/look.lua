-- look: how many sessions of an incarnation are members of a channel, and whether it was reaped there; keeps the former
-- from expiring. Not flagged no-writes, so that a replica refuses it. Allowed out of memory.
--
-- KEYS  1 sessions of the incarnation  2 tombstone of the incarnation
-- ARGV  1 seconds
-- reply { sessions, 1 if it was reaped }
redis.call('EXPIRE', KEYS[1], ARGV[1])
return { redis.call('SCARD', KEYS[1]), redis.call('EXISTS', KEYS[2]) }
