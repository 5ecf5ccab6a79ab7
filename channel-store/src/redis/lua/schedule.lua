-- schedule: writes an incarnation into the directory. From now on chats watch its lease. Allowed when memory is full.
-- Follows clock.lua.
--
-- KEYS  1 directory (zset: incarnation -> a number that is another one after each call)
-- ARGV  1 incarnation
return redis.call('ZADD', KEYS[1], string.format('%d', microseconds()), ARGV[1])
