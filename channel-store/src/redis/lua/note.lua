-- note: writes an incarnation into the directory: it is to be looked after from now on. Allowed out of memory.
-- Follows clock.lua.
--
-- KEYS  1 directory (zset: incarnation -> a number that is another one after each note)
-- ARGV  1 incarnation
return redis.call('ZADD', KEYS[1], string.format('%d', microseconds()), ARGV[1])
