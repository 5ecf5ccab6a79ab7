-- quiet: channels in one part of the directory that were not noted for long, those first that were noted longest ago. It is
-- not flagged no-writes, so a replica refuses it (READONLY). Allowed when memory is full.
--
-- KEYS  1 names  2 times, as in note.lua
-- ARGV  1 for how many seconds at least  2 how many at most
-- reply { name, when it was noted last, … }
local until_then = redis.call('TIME')[1] - ARGV[1]
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', until_then, 'WITHSCORES', 'LIMIT', 0, ARGV[2])
