-- note: writes into the directory when an incarnation is to be looked after. Allowed out of memory.
-- Follows clock.lua.
--
-- KEYS  1 directory (zset: incarnation -> this server's milliseconds)
-- ARGV  1 incarnation  2 milliseconds from now
local due = milliseconds() + ARGV[2]
return redis.call('ZADD', KEYS[1], string.format('%d', due), ARGV[1])
