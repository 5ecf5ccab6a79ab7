-- forget: takes channels that were not found out of one part of the directory. A channel stays if it was noted since it was
-- read there, or not long ago: after a note its writer publishes in the channel a moment later. Allowed when memory is full.
--
-- KEYS  1 names  2 times, as in note.lua
-- ARGV  1 how many seconds ago it must have been noted at least; then for each channel: its name, and when it was noted last
--       as the caller has read it, or ''
-- reply how many were taken out
local now, forgotten = redis.call('TIME')[1], 0
for i = 2, #ARGV, 2 do
  local noted = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if (noted or '') == ARGV[i + 1] and (not noted or now - noted >= tonumber(ARGV[1])) then
    redis.call('ZREM', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
    forgotten = forgotten + 1
  end
end
return forgotten
