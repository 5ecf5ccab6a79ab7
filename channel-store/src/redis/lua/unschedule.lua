-- unschedule: takes an incarnation out of the directory, unless it was scheduled again since the caller has read its
-- number. Allowed when memory is full.
--
-- KEYS  1 directory, as in schedule.lua
-- ARGV  1 incarnation  2 the number that the caller has read
local present = redis.call('ZSCORE', KEYS[1], ARGV[1])
if present and tonumber(present) == tonumber(ARGV[2]) then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
