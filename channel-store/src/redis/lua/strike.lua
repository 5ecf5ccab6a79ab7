-- strike: takes an incarnation out of the directory unless it was noted again since it was seen. Allowed out of memory.
--
-- KEYS  1 directory, as in note.lua
-- ARGV  1 incarnation  2 its number when it was seen
local noted = redis.call('ZSCORE', KEYS[1], ARGV[1])
if noted and tonumber(noted) == tonumber(ARGV[2]) then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
