-- presence: how many sessions of an incarnation are members of a channel, and whether the incarnation was reaped there. It
-- also keeps the set of these sessions from expiring. It is not flagged no-writes, so a replica refuses it. Allowed when
-- memory is full. Follows clock.lua.
--
-- KEYS  1 sessions of the incarnation  2 tombstone of the incarnation  3 detached members, as in members.lua
-- ARGV  1 seconds
-- reply { sessions, 1 if it was reaped, 1 if the time of a detached member is over }
redis.call('EXPIRE', KEYS[1], ARGV[1])
local now = string.format('%d', milliseconds())
local due = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 1)
return { redis.call('SCARD', KEYS[1]), redis.call('EXISTS', KEYS[2]), #due }
