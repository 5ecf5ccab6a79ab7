-- due: incarnations whose noted time is over, the longest first. Not flagged no-writes, so that a replica refuses it.
-- Follows clock.lua.
--
-- KEYS  1 directory, as in note.lua
-- ARGV  1 how many at most
-- reply { incarnation, its time, … }
local now = string.format('%d', milliseconds())
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'WITHSCORES', 'LIMIT', 0, ARGV[1])
