-- noted: channels in one part of the directory, in the order of their names. It is not flagged no-writes, so a replica refuses
-- it (READONLY). Allowed when memory is full.
--
-- KEYS  1 names  2 times, as in note.lua
-- ARGV  1 where to begin and 2 where to end, as ZRANGEBYLEX takes them  3 how many at most
-- reply { name, when it was noted last or '', … }
local reply = {}
for _, name in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], ARGV[2], 'LIMIT', 0, ARGV[3])) do
  reply[#reply + 1], reply[#reply + 2] = name, redis.call('ZSCORE', KEYS[2], name) or ''
end
return reply
